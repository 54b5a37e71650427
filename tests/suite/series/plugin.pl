% Events that are well, fail at first, never end, and take 20 ms.
:- bridge_on(n, one).
one(Event, Event.data).

:- bridge_on(flaky, flaky).
flaky(Event, _) :- Event.attempt =:= 1, !, throw("the first attempt fails").
flaky(Event, Event.data).

:- bridge_on(hang, hang).
hang(_) :- repeat, fail.

:- bridge_on(slow, slow).
slow(Event, Event.data) :- sleep(0.02).
