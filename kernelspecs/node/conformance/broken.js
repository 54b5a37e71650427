// Line 3 is not JavaScript.
const before = 1;
const broken = = 2;
const after = 3;
