# A plugin with a syntax error on line 3.
bridge.export(name -> name, "hello")
broken(name = = 1
