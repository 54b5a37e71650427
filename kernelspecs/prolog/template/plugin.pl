% What begins with `bridge_` is there already: nothing to load, nothing to install.
:- bridge_export(greet, greet/2).
:- bridge_on('guest.*', welcome).

%!  greet(+Name, -Text) is det.
greet(Name, Text) :-
    bridge_config(Config),
    format(string(Text), "~w, ~w", [Config.greeting, Name]).

welcome(Event) :-
    bridge_state_update('my-plugin/count', plus(1), 0, Count),
    greet(Event.data.name, Text),
    bridge_emit('my-plugin.greeted', _{text: Text, count: Count}).
