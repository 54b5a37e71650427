if (greet("Ada") !== "hello, Ada") throw new Error(`not greeted: ${greet("Ada")}`);
