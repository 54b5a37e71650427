-- A plugin that does not parse: line 3 has one equals sign too many.
bridge.export("hello", function(name) return name end)
local x = = 1
