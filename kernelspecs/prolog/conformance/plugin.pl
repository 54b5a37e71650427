% The conformance plugin: the same exports and handlers in every language.

:- bridge_export(hello, hello/2).
:- bridge_export(identity, identity/2).
:- bridge_export(fail, fail/2).
:- bridge_export(print_both, print_both/2).
:- bridge_export(call_host, call_host/3).
:- bridge_export(try_call, try_call/3).
:- bridge_export(nest, nest/2).
:- bridge_export(increment, increment/3).
:- bridge_export(state_roundtrip, state_roundtrip/3).
:- bridge_export(emit_one, emit_one/3).
:- bridge_export(log_one, log_one/3).
:- bridge_export(busy, busy/2).
:- bridge_export(sleep, nap/2).
:- bridge_export(keyboard, keyboard/1).
:- bridge_export(exit_now, exit_now/1).

:- bridge_on('conf.echo', echo).
:- bridge_on('conf.batch', doubled, [batch(10)]).
:- bridge_on('conf.fail', failing).
:- bridge_filter('conf.filter', stamp, 10).
:- bridge_on_shutdown(bridge_state_set('shutdown/prolog', true)).

%!  hello(+Name, -Greeting) is det.
%
%   A greeting with the configured word.

hello(Name, Greeting) :-
    bridge_config(Config),
    format(string(Greeting), "~w, ~w from prolog", [Config.greeting, Name]).

%!  identity(+X, -X) is det.
identity(X, X).

fail(Message, _) :-
    throw(error(conformance_error(Message), _)).

print_both(Text, _) :-
    format("~w~n", [Text]),
    format(user_error, "~w~n", [Text]).

call_host(Name, Args, Result) :-
    bridge_call(Name, Args, Result).

try_call(Name, Args, Result) :-
    catch(bridge_call(Name, Args, Result),
          error(bridge_error(Kind, Message, _), _),
          Result = _{kind: Kind, message: Message}).

nest(N, 0) :-
    N =< 0,
    !.
nest(N, Depth) :-
    bridge_call('test.nest', [N], Below),
    Depth is Below + 0.

increment(Key, Times, Last) :-
    forall(between(2, Times, _), bridge_state_update(Key, plus(1), 0, _)),
    bridge_state_update(Key, plus(1), 0, Last).

state_roundtrip(Key, Value, Got) :-
    bridge_state_set(Key, Value),
    bridge_state_get(Key, Got),
    bridge_state_delete(Key).

emit_one(Topic, Data, _) :-
    bridge_emit(Topic, Data).

log_one(Level, Message, _) :-
    bridge_log(Level, Message).

busy(Seconds, _) :-
    get_time(Now),
    Stop is Now + Seconds,
    repeat,
    get_time(Time),
    Time >= Stop,
    !.

nap(Seconds, _) :-
    sleep(Seconds).

keyboard(Line) :-
    read_line_to_string(user_input, Line).

exit_now(_) :-
    shell('kill -9 $PPID').

echo(Event, _{topic: Event.topic, data: Event.data, attempt: Event.attempt}).

doubled(Events, Results) :-
    maplist(double, Events, Results).

double(Event, Double) :-
    Double is Event.data.n * 2.

failing(_) :-
    type_error(success, 'conf.fail').

stamp(Event, Stamped) :-
    \+ get_dict(drop, Event.data, true),
    append(Event.data.path, ["prolog"], Path),
    Stamped = Event.put(data/path, Path).
