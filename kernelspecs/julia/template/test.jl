@assert greet("Ada") == "hello, Ada"
