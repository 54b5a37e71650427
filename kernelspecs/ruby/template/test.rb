raise "not greeted: #{greet("Ada")}" unless greet("Ada") == "hello, Ada"
