# A plugin with a syntax error on line 3.
bridge.export(lambda name: name, name="hello")
def broken(name name):
    return name
