% kernelbridge shim for SWI-Prolog under prolog_kernel: docs/protocol.md over the `pipe` carrier.
% Loaded once into the kernel's Prolog; all it adds for authors begins with `bridge_`. A plugin is loaded into the
% module `plugin`. Registration only tags; dispatch, JSON and errors are done here.

:- module(bridge, [bridge_turn/0, bridge_config/1, bridge_on/2, bridge_on/3, bridge_filter/2, bridge_filter/3,
    bridge_export/2, bridge_on_shutdown/1, bridge_call/2, bridge_call/3, bridge_emit/2, bridge_emit/3,
    bridge_state_get/2, bridge_state_get/3, bridge_state_set/2, bridge_state_update/4, bridge_state_delete/1,
    bridge_state_list/2, bridge_log/2, bridge_log/3, bridge_progress/3]).
:- use_module(library(http/json), []).
:- use_module([library(prolog_stack), library(prolog_stream)]).
:- meta_predicate bridge_on(+, :), bridge_on(+, :, +), bridge_filter(+, :), bridge_filter(+, :, +),
    bridge_export(+, :), bridge_on_shutdown(0), bridge_state_update(+, 2, +, -), author(0).
:- dynamic handler/3, cell/2, problem/2, exit_goal/1, config/1, loading/0. % Id, Predicate, Fields; File, Source
:- multifile user:message_hook/3, prolog:error_message//1.

%   Reading JSON from the FIFO. library(http/json) knows no surrogate pairs and makes a list of the codes of every
%   string; read_string/5 does not. The host writes no space outside strings. Next is the code after the value.
value(In, Value, Next) :- peek_code(In, Code), value(Code, In, Value, Next).
value(0'", In, String, Next) :- !, get_code(In, _), text(In, String), get_code(In, Next).
value(0'[, In, List, Next) :- !, get_code(In, _), peek_code(In, Code), items(Code, In, List), get_code(In, Next).
value(0'{, In, Dict, Next) :- !,
    get_code(In, _), get_code(In, Code), pairs(Code, In, Pairs), get_code(In, Next),
    sort(1, @<, Pairs, Unique), dict_pairs(Dict, _, Unique). % dict_pairs/3 refuses keys that occur twice
value(Code, In, Value, Next) :-
    read_string(In, ",]}\n", "", Next, Token),
    (   word(Code, Value) -> true ; catch(number_string(Value, Token), _, fail) -> true ; Value = null ). % 1e400
word(0't, true).  word(0'f, false).  word(0'n, null).
items(0'], In, []) :- !, get_code(In, _).
items(_, In, [Value|Rest]) :- value(In, Value, Next), ( Next == 0', -> items(Next, In, Rest) ; Rest = [] ).
pairs(0'}, _, []) :- !.
pairs(_, In, [Key-Value|Rest]) :-
    text(In, String), atom_string(Key, String), get_code(In, _), value(In, Value, Next),
    (   Next == 0', -> get_code(In, Quote), pairs(Quote, In, Rest) ; Rest = [] ).
text(In, String) :-                                 % after the opening quote
    read_string(In, "\"\\", "", Stop, Part),
    (   Stop == 0'\\ -> with_output_to(string(String), ( write(Part), escaped(In) )) ; String = Part ).
escaped(In) :-
    get_char(In, Char), escape(Char, In, Code), put_char(Code), read_string(In, "\"\\", "", Stop, Part), write(Part),
    (   Stop == 0'\\ -> escaped(In) ; true ).
escape(Char, _, Code) :- memberchk(Char-Code, [n-10, t-9, r-13, b-8, f-12]), !.
escape(u, In, Code) :- !, unit(In, H),              % 0x35FDC00 takes the marks of both surrogates away
    (   H >> 10 =\= 0x36 -> Code = H ; read_string(In, 2, _), unit(In, L), Code is (H << 10) + L - 0x35FDC00 ).
escape(Char, _, Char).
unit(In, Unit) :- read_string(In, 4, Hex), string_concat("0x", Hex, Number), number_string(Unit, Number).

%   Writing JSON: strings and atoms become strings, except the atoms null, true and false.
json(Depth, Value, String) :-
    (   acyclic_term(Value) -> true ; raise('Invalid', "cannot send a term that holds itself", []) ),
    with_output_to(string(String), ( current_output(Out), put(Value, Out, Depth) )).
put(Value, _, _) :- var(Value), !, raise('Invalid', "cannot send an unbound variable", []).
put(Value, Out, _) :- string(Value), !, json:json_write_string(Out, Value).
put(Value, Out, _) :- integer(Value), !, write(Out, Value).
put(Value, Out, _) :- float(Value), !, float_class(Value, Class),
    (   memberchk(Class, [nan, infinite]) -> write(Out, null) ; write(Out, Value) ).
put(_, _, 100) :- !, raise('Invalid', "a value is nested more than 100 deep", []).
put([], Out, _) :- !, write(Out, []).
put([Value|Rest], Out, Depth0) :- is_list(Rest), !, Depth is Depth0 + 1,
    put_char(Out, '['), put(Value, Out, Depth),
    forall(member(Item, Rest), ( put_char(Out, ','), put(Item, Out, Depth) )), put_char(Out, ']').
put(Dict, Out, Depth0) :- is_dict(Dict), !, Depth is Depth0 + 1, dict_pairs(Dict, _, Pairs),
    put_char(Out, '{'), put_pairs(Pairs, '', Out, Depth), put_char(Out, '}').
put(Word, Out, _) :- word(_, Word), !, write(Out, Word).
put(Atom, Out, _) :- atom(Atom), !, json:json_write_string(Out, Atom).
put(Term, _, _) :- raise('Invalid', "cannot send the term ~W", [Term, [quoted(true), max_depth(5)]]).
put_pairs([], _, _, _).
put_pairs([Key-Value|Rest], Separator, Out, Depth) :-
    write(Out, Separator), ( atom(Key) -> Name = Key ; atom_number(Name, Key) ), json:json_write_string(Out, Name),
    put_char(Out, ':'), put(Value, Out, Depth), put_pairs(Rest, ',', Out, Depth).

%   Errors: authors catch error(bridge_error(Kind, Message, Data), _). Data is null in those that begin here.
code(Kind, Code) :-
    (   nth0(N, ['Raised', 'Denied', 'Timeout', 'Cancelled', 'Deadlock', 'Gone', 'Host'], Kind) -> Code is -32000 - N
    ;   memberchk(Kind-Code, ['NotFound'-(-32601), 'Invalid'-(-32602)]) -> true ; Code = -32006 ).
raise(Kind, Format, Args) :- format(string(Message), Format, Args), throw(error(bridge_error(Kind, Message, null), _)).
prolog:error_message(bridge_error(_, Message, _)) --> [ '~w'-[Message] ].
error_object(answered(Object), _, Object) :- !.
error_object(error(bridge_error(Kind, Message, null), _), _, _{code: Code, message: Message, data: _{kind: Kind}}) :- !,
    code(Kind, Code).
error_object(Exception, Lines, _{code: -32000, message: Message, data: Data}) :-
    described(Exception, Name, Text),
    Data0 = _{kind: 'Raised', ename: Name, evalue: Text, traceback: Lines},
    (   Exception = error(bridge_error(Kind, Message, Received), _)
    ->  code(Kind, Code), Data = Data0.put(cause, _{code: Code, message: Message, data: Received})
    ;   Data = Data0, format(string(Message), "~w: ~w", [Name, Text]) ).
described(error(Formal, Context), Name, Text) :- nonvar(Formal), !,
    functor(Formal, Name, _),
    (   Context = context(_, Extra) -> Rest = context(_, Extra) ; Context = file(_, _, _, _) -> true ; Rest = Context ),
    '$messages':translate_message(error(Formal, Rest), Lines, []),
    with_output_to(string(Known), print_message_lines(current_output, '', Lines)),
    (   string_concat("Unknown error term", _, Known) -> plain(Formal, Text) ; split_string(Known, "", " \n", [Text]) ).
described(Thrown, Name, Text) :-
    (   compound(Thrown) -> functor(Thrown, Name, _) ; Name = exception ), plain(Thrown, Text).
plain(Term, Text) :-
    (   compound(Term), Term =.. [_, Part], atomic(Part) -> true ; Part = Term ),
    format(string(Text), "~W", [Part, [max_depth(10)]]).
author(Goal) :-                                     % calls author code
    nb_setval(bridge_author, true),
    (   catch_with_backtrace(Goal, Exception, failed(Exception, Goal)) -> nb_setval(bridge_author, false)
    ;   nb_setval(bridge_author, false), fail ).
failed(Exception, Module:Goal) :-
    nb_setval(bridge_author, false), functor(Goal, Name, Arity),
    (   Exception = error(_, context(prolog_stack(Frames), _)), convlist(place, Frames, Lines), Lines \== [] -> true
    ;   predicate_property(Module:Goal, file(File)), predicate_property(Module:Goal, line_count(Line)) % a last call
    ->  convlist(place, [frame(0, pred_line(Module:Name/Arity, File:Line), Goal)], Lines)
    ;   Lines = [] ),
    error_object(Exception, Lines, Object), throw(answered(Object)).
place(frame(_, pred_line(Name, File:Line), _), Text) :-
    \+ module_property(bridge, file(File)), \+ sub_atom(File, _, _, _, '/boot/'),
    file_base_name(File, Base), format(string(Text), "~w:~d: in ~w", [Base, Line, Name]).

%   Messages
frame(Body) :-                                      % a null stream counts the bytes
    nb_getval(bridge_out, Out), nb_getval(bridge_null, Null),
    byte_count(Null, Before), write(Null, Body), byte_count(Null, After), Length is After - Before,
    write(Out, Length), nl(Out), write(Out, Body), flush_output(Out).
receive(Message) :-
    nb_getval(bridge_in, In), read_string(In, "\n", "", Stop, _),
    (   Stop == -1 -> Message = _{method: "end"} ; value(In, Message, _) ).
notify(_, _) :- nb_getval(bridge_ended, true), !.
notify(Method, Params) :- json(0, _{jsonrpc: "2.0", method: Method, params: Params}, Body), frame(Body).
request(Method, Params, Result) :-
    (   nb_getval(bridge_ended, true) -> raise('Cancelled', "no turn is open", []) ; true ),
    nb_getval(bridge_own, Last), Id is Last + 1, nb_setval(bridge_own, Id),
    json(0, _{jsonrpc: "2.0", id: Id, method: Method, params: Params}, Body),
    nb_getval(bridge_author, Was), nb_setval(bridge_author, false),
    frame(Body), wait(Id, Reply),
    nb_setval(bridge_author, Was), nb_getval(bridge_missed, Missed), ignore(Missed),
    (   get_dict(result, Reply, Result0) -> Result = Result0
    ;   get_dict(error, Reply, Error)
    ->  (   get_dict(data, Error, Data), is_dict(Data) -> true ; Data = _{} ),
        (   get_dict(kind, Data, Kind0) -> atom_string(Kind, Kind0) ; Kind = 'Host' ),
        throw(error(bridge_error(Kind, Error.message, Data), _))
    ;   raise('Cancelled', "the turn is over", []) ).
wait(Id, Reply) :-                                  % whoever waits, serves; any other response is stale
    receive(Message), serve(Message),
    (   nb_getval(bridge_ended, true) -> Reply = _{}
    ;   get_dict(id, Message, Id), \+ get_dict(method, Message, _) -> Reply = Message
    ;   wait(Id, Reply) ).
serve(Message) :- get_dict(method, Message, "end"), !, nb_setval(bridge_ended, true).
serve(Message) :-
    get_dict(method, Message, Method), get_dict(id, Message, Id), nb_getval(bridge_last, Last), Id > Last, !,
    nb_setval(bridge_last, Id),
    (   get_dict(params, Message, Params) -> true ; Params = _{} ),
    (   Method == "series" -> series(Params, Key, Text) ; attempt(Method, Params, Key, Text) ),
    format(string(Body), '{"jsonrpc":"2.0","id":~d,"~w":~w}', [Id, Key, Text]),
    flush_output(user_output), flush_output(user_error), frame(Body).
serve(_).                                           % a response, a notification, or from before an interrupt
attempt(Method, Params, Key, Text) :-
    catch(( once(answer(Method, Params, Result)), json(0, Result, Text) ), Exception, true),
    (   var(Exception) -> Key = result ; Key = error, error_object(Exception, [], Error), json(-10000, Error, Text) ).
series(Params, result, Text) :-
    get_time(Began), Until is Began + Params.within_ms / 1000, outcomes(Params.events, Params.chain, Until, Outcomes),
    atomic_list_concat(Outcomes, ',', Joined), format(string(Text), '{"outcomes":[~w]}', [Joined]).
outcomes([], _, _, []).
outcomes([Event|Rest], Chain, Until, [Outcome|More]) :- % until one fails or time is up
    get_time(Began), attempt("event", Event.put(chain, Chain), Key, Text), get_time(Now), Ms is (Now - Began) * 1000,
    format(string(Outcome), '{"~w":~w,"ms":~3f}', [Key, Text, Ms]),
    (   Key == result, Now =< Until, nb_getval(bridge_ended, false) -> outcomes(Rest, Chain, Until, More) ; More = [] ).
bridge_turn :-
    file(cancel, Cancel), catch(delete_file(Cancel), _, true),
    retractall(jupyter_query_handling:query_data(_, _, term_data(bridge_turn, _), _)), % one a turn, for ever
    current_input(Input), current_output(Output),
    setup_call_cleanup(open_turn, serve_turn, close_turn(Input, Output)).
open_turn :-
    file('to-host', Up), open(Up, write, Out, [encoding(utf8)]), nb_setval(bridge_out, Out),
    file('to-plugin', Down), open(Down, read, In, [encoding(utf8), bom(false)]), nb_setval(bridge_in, In),
    % The real user_input is the kernel's line to this process.
    open_prolog_stream(bridge, read, Keyboard, []), nb_setval(bridge_keyboard, Keyboard),
    nb_getval(bridge_stdout, Stdout), nb_getval(bridge_stderr, Stderr), redirect(Keyboard, Stdout, Stderr),
    nb_setval(bridge_ended, false), thread_send_message(bridge_watch, start).
serve_turn :- notify(ready, _{}), repeat, receive(Message), serve(Message), nb_getval(bridge_ended, true), !.
close_turn(Input, Output) :-
    thread_send_message(bridge_watch, stop), nb_setval(bridge_ended, true), nb_setval(bridge_author, false),
    flush_output(user_output), flush_output(user_error), redirect(Input, Output, Output),
    forall(member(N, [bridge_out, bridge_in, bridge_keyboard]), ( nb_getval(N, Stream), close(Stream, [force(true)]) )).
redirect(Input, Output, Error) :-
    maplist([S-A]>>set_stream(S, alias(A)), [Input-user_input, Input-current_input, Output-user_output,
                                             Output-current_output, Error-user_error]).
file(Name, Path) :- getenv('KERNELBRIDGE_DIR', Directory), directory_file_path(Directory, Name, Path).
stream_read(_, Line) :-                             % of the keyboard
    prompt(Prompt, Prompt), bridge_call('host.input', [Prompt], Answer),
    (   Answer == null -> Line = "" ; string_concat(Answer, "\n", Line) ).
stream_close(_).
% An interrupt makes prolog_kernel restart Prolog, so the host creates a file and a thread looks for it.
watch :-
    thread_get_message(start), thread_self(Me),
    repeat,
    (   thread_get_message(Me, stop, [timeout(0.02)]) -> true
    ;   file(cancel, File), exists_file(File), thread_signal(main, bridge:cancel(File)), fail ), !,
    watch.
cancel(File) :-                                     % in author code only: elsewhere it would cut a message in two
    nb_getval(bridge_author, Author),
    (   Author == false -> nb_setval(bridge_missed, bridge:cancel(File)) ; nb_setval(bridge_missed, true) ),
    (   Author == true, exists_file(File) -> delete_file(File), raise('Cancelled', "interrupted", []) ; true ).

%   What authors use
bridge_config(Config) :- config(Config).
bridge_on(Topic, Predicate) :- bridge_on(Topic, Predicate, []).
bridge_on(Topic, Predicate, Options) :-
    (   memberchk(batch(Batch), Options) -> true ; Batch = 0 ),
    register(Predicate, _{kind: on, topic: Topic, batch: Batch}).
bridge_filter(Topic, Predicate) :- bridge_filter(Topic, Predicate, 0).
bridge_filter(Topic, Predicate, Priority) :- register(Predicate, _{kind: filter, topic: Topic, priority: Priority}).
bridge_export(Name, Predicate) :- register(Predicate, _{kind: export, name: Name}).
bridge_on_shutdown(Goal) :- assertz(exit_goal(Goal)).
bridge_call(Name, Args) :- bridge_call(Name, Args, _).
bridge_call(Name, Args, Result) :- request(call, _{name: Name, args: Args}, Result).
bridge_emit(Topic, Data) :- request(emit, _{topic: Topic, data: Data}, _).
bridge_emit(Topic, Data, Key) :- request(emit, _{topic: Topic, data: Data, key: Key}, _).
bridge_state_get(Key, Value) :- bridge_call('state.get', [Key], Value).
bridge_state_get(Key, Default, Value) :- bridge_state_get(Key, Stored), either(Stored, Default, Value).
bridge_state_set(Key, Value) :- bridge_call('state.set', [Key, Value]).
bridge_state_delete(Key) :- bridge_call('state.delete', [Key]).
bridge_state_list(Prefix, Keys) :- bridge_call('state.list', [Prefix], Keys).
bridge_state_update(Key, Predicate, Default, New) :- % call(Predicate, Old, New)
    bridge_call('state.read', [Key], Read), either(Read.value, Default, Old), call(Predicate, Old, New0),
    bridge_call('state.swap', [Key, Read.version, New0], Swap),
    (   Swap.swapped == true -> New = New0 ; bridge_state_update(Key, Predicate, Default, New) ).
bridge_log(Level, Message) :- bridge_log(Level, Message, _{}).
bridge_log(Level, Message, Fields) :-
    format(string(Text), "~w", [Message]), notify(log, _{level: Level, message: Text, fields: Fields}).
bridge_progress(Done, Total, Message) :- notify(progress, _{done: Done, total: Total, message: Message}).
either(Value, Default, Result) :- ( Value == null -> Result = Default ; Result = Value ).
register(Predicate, Fields) :-
    aggregate_all(count, handler(_, _, _), Count), Id is Count + 1, assertz(handler(Id, Predicate, Fields)).

%   What the host asks
answer("initialize", Params, _{bridge: "1", language: prolog, interpreter: Interpreter, features: [series]}) :-
    retractall(config(_)), assertz(config(Params.config)),
    ( get_dict(folder, Params, Folder) -> working_directory(_, Folder) ; true ),
    current_prolog_flag(version_data, swi(A, B, C, _)), format(string(Interpreter), "SWI-Prolog ~d.~d.~d", [A, B, C]).
answer("load", Params, _{handlers: Handlers, async: false}) :-
    forall(retract(cell(File, _)), unload_file(File)),
    forall(( predicate_property(plugin:P, dynamic), \+ predicate_property(plugin:P, imported_from(_)) ),
           retractall(plugin:P)),
    maplist(retractall, [handler(_, _, _), exit_goal(_), problem(_, _)]),
    forall(member(Cell, Params.cells), load_cell(Params.path, Cell)),
    findall(Exception, problem(Exception, _), Exceptions),
    (   Exceptions = [First|_]
    ->  findall(Place, problem(_, Place), Places), error_object(First, Places, Object), throw(answered(Object))
    ;   findall(Handler, resolved(Handler), Handlers) ).
answer("event", Params, Result) :- handle(Params, Params, Result).
answer("events", Params, _{outcomes: Outcomes}) :-
    handle(Params, Params.events, Results), same_length(Params.events, Outcomes),
    (   is_list(Results), same_length(Results, Outcomes) -> maplist(outcome, Results, Outcomes)
    ;   maplist(outcome(null), Outcomes) ).
answer("filter", Params, Result) :-
    handle(Params, Params, Event),
    (   Event == null -> Result = null ; Result = _{topic: Event.topic, key: Event.key, data: Event.data} ).
answer("call", Params, Result) :-
    (   atom_string(Name, Params.name), handler(_, Predicate, Fields), _{kind: export, name: Name} :< Fields -> true
    ;   raise('NotFound', "no exported predicate ~w", [Params.name]) ),
    append(Params.args, [Value], Arguments), Predicate = Module:Functor/Arity, Goal =.. [Functor|Arguments],
    (   functor(Goal, _, Arity) -> true ; raise('Invalid', "~w is ~w/~d", [Name, Functor, Arity]) ),
    (   author(Module:Goal) -> outcome(Value, _{result: Result})
    ;   format(string(Text), "~w/~d failed", [Functor, Arity]), failed(failure(Text), Module:Goal) ).
answer("shutdown", _, null) :-
    findall(Exception, ( exit_goal(Goal), catch(( author(Goal), fail ), Exception, true) ), Exceptions),
    (   Exceptions = [First|_] -> throw(First) ; true ).
answer(Method, _, _) :- raise('NotFound', "no method ~w", [Method]).
handle(Params, Argument, Result) :-                 % a handler that fails has nothing to say, which is no error
    (   handler(Params.handler, Module:Name/Arity, _) -> true ; raise('NotFound', "no handler ~w", [Params.handler]) ),
    (   Arity == 1 -> Goal =.. [Name, Argument] ; Goal =.. [Name, Argument, Value] ),
    (   author(Module:Goal) -> outcome(Value, _{result: Result}) ; Result = null ).
outcome(Value, _{result: Result}) :- ( var(Value) -> Result = null ; Result = Value ).
load_cell(Path, Cell) :-
    (   string(Path) -> file_directory_name(Path, Directory) ; Directory = '.' ),
    absolute_file_name(Cell.name, File, [relative_to(Directory)]), assertz(cell(File, Cell.source)),
    setup_call_cleanup(( open_string(Cell.source, In), assertz(loading) ),
                       author(load_files(plugin:File, [stream(In), silent(true)])), ( retractall(loading), close(In) )).
user:message_hook(Exception, error, _) :-           % load_files/2 prints what is wrong and goes on
    bridge:loading, !,
    (   Exception = error(_, file(File, Line, _, _)) -> true ; source_location(File, Line) -> true ; File:Line = '':0 ),
    bridge:described(Exception, _, Text), file_base_name(File, Base),
    format(string(Place), "~w:~d: ~w", [Base, Line, Text]), assertz(bridge:problem(Exception, Place)).
resolved(Handler) :-                                % once all clauses are there
    retract(handler(Id, Module:Spec, Fields)),
    (   Spec = Name/Arity -> true ; Spec = Name ),
    (   ( Arity = 2 ; between(1, 99, Arity) ), functor(Head, Name, Arity), predicate_property(Module:Head, defined)
    ->  assertz(handler(Id, Module:Name/Arity, Fields))
    ;   existence_error(procedure, Module:Spec) ),
    findall(doc-Doc, once(doc(Module:Head, Doc)), Docs),
    dict_create(Handler0, _, [id-Id, name-Name|Docs]), Handler = Handler0.put(Fields).
doc(Predicate, Doc) :-                              % the comment above the predicate, from `%!` or `%%` on
    predicate_property(Predicate, file(File)), predicate_property(Predicate, line_count(Line)), cell(File, Source),
    split_string(Source, "\n", " \t\r", Lines), Before is Line - 1, length(Prefix, Before), append(Prefix, _, Lines),
    append(_, [First|Rest], Prefix), sub_string(First, 0, 2, _, Start), memberchk(Start, ["%!", "%%"]),
    forall(( member(Other, Rest), Other \== "" ), string_concat("%", _, Other)),
    maplist([Raw, Text]>>split_string(Raw, "", "%! ", [Text]), [First|Rest], Texts),
    atomic_list_concat(Texts, '\n', Joined), split_string(Joined, "", "\n", [Doc]).

% prolog_kernel keeps output in files in the working directory, where two kernels would take them from one another, and
% shows it when the turn is over. What is written to the descriptors of its own process, ipykernel sends at once.
:- maplist(redefine_system_predicate, [jupyter_query_handling:file_name(_, _), user:shell(_), user:shell(_, _)]).
jupyter_query_handling:file_name(Kind, Path) :- atom_concat('kernel-', Kind, Name), bridge:file(Name, Path).
descriptor(Number, Path) :-
    read_file_to_string('/proc/self/stat', Stat, []), split_string(Stat, " ", "", [_, _, _, Parent|_]),
    format(atom(Path), '/proc/~w/fd/~d', [Parent, Number]).
user:shell(Command) :- user:shell(Command, 0).      % a child would write to the kernel's line to this process
user:shell(Command, Status) :-
    bridge:descriptor(1, Out), bridge:descriptor(2, Error),
    format(atom(Redirected), 'exec >~w 2>~w </dev/null\n~w', [Out, Error, Command]), system:shell(Redirected, Status).
:- set_prolog_flag(encoding, utf8),                 % in the C locale an umlaut in the output ends the Prolog
   forall(( member(Number, [0, 1]), stream_property(Line, file_no(Number)) ), set_stream(Line, encoding(utf8))),
   maplist(nb_setval, [bridge_own, bridge_last, bridge_author, bridge_missed, bridge_ended], [0, 0, false, true, true]),
   open_null_stream(Null), set_stream(Null, encoding(utf8)), nb_setval(bridge_null, Null),
   forall(member(Name-N-Alias, [bridge_stdout-1-user_output, bridge_stderr-2-user_error]),
          ( catch(( descriptor(N, D), open(D, append, S, [encoding(utf8), buffer(line)]) ), _, S = Alias), % no /proc
            nb_setval(Name, S) )),
   file('kernel-output', Path), open(Path, write, Stream), close(Stream), catch(delete_file('.server_output'), _, true),
   thread_create(watch, _, [alias(bridge_watch), detached(true)]).
