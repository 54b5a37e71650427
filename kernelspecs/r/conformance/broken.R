# A plugin with a syntax error on line 3.
bridge$export("hello", function(name) name)
bridge$export("broken", function(name name)
