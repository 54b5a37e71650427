stopifnot(greet("Ada") == "hello, Ada")
