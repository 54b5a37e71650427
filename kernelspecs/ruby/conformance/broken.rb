# A plugin that does not parse: line 3 has one comma too many.
bridge.export("hello") { |name| name }
numbers = [1,, 2]
