# A plugin with a syntax error on line 3.
bridge_export ("hello", @(name) name);
bridge_export ("broken", @(name name) 1);
