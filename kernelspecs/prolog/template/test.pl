:- greet("Ada", Text), ( Text == "hello, Ada" -> true ; throw(not_greeted(Text)) ).
