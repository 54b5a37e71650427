% A plugin that does not parse: line 3 lacks an operator.
:- bridge_export(hello, hello/2).
hello(Name Greeting) :- Greeting = Name.
