// Line 3 is not TypeScript.
export const before: number = 1;
export const broken: number = = 2;
export const after: number = 3;
