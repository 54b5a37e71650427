# hello (name) -> "<greeting>, <name> from octave"
function text = hello (name)
  text = [bridge_config().greeting ", " name " from octave"];
endfunction

function fail (message)
  error ("%s", message);
endfunction

function print_both (text)
  printf ("%s\n", text);
  fprintf (stderr, "%s\n", text);
endfunction

function result = call_host (name, args)
  if (! iscell (args))  # a list of numbers is a matrix
    args = num2cell (args);
  endif
  result = bridge_call (name, args{:});
endfunction

function result = try_call (name, args)
  try
    result = call_host (name, args);
  catch
    failure = bridge_failure ();
    result = struct ("kind", failure.data.kind, "message", failure.message);
  end_try_catch
endfunction

function result = nest (n)
  result = 0;
  if (n > 0)
    result = bridge_call ("test.nest", n) + 0;
  endif
endfunction

function value = increment (key, times)
  for i = 1:times
    value = bridge_state_update (key, @(n) n + 1, 0);
  endfor
endfunction

function value = state_roundtrip (key, value)
  bridge_state_set (key, value);
  value = bridge_state_get (key);
  bridge_state_delete (key);
endfunction

function busy (seconds)
  start = tic ();
  while (toc (start) < seconds)
  endwhile
endfunction

function exit_now ()
  kill (getpid (), SIG ().KILL);
endfunction

function result = echo_event (event)
  result = struct ("topic", event.topic, "data", event.data, "attempt", event.attempt);
endfunction

function event = extend_path (event)
  if (isfield (event.data, "drop") && event.data.drop)
    event = [];
  else
    event.data.path{end+1} = "octave";
  endif
endfunction

# The conformance plugin: what tests/conformance.rs asks of every language.
# Octave draws only with gnuplot or a display, so there is no `plot`.
bridge_export ("hello", @hello);
bridge_export ("identity", @(x) x);
bridge_export ("sum", @(x) sum (x(:)));
bridge_export ("fail", @fail);
bridge_export ("print_both", @print_both);
bridge_export ("call_host", @call_host);
bridge_export ("try_call", @try_call);
bridge_export ("nest", @nest);
bridge_export ("increment", @increment);
bridge_export ("state_roundtrip", @state_roundtrip);
bridge_export ("emit_one", @(topic, data) bridge_emit (topic, data));
bridge_export ("log_one", @(level, message) bridge_log (level, message));
bridge_export ("busy", @busy);
bridge_export ("sleep", @(seconds) pause (seconds));
bridge_export ("keyboard", @() input ("your name? ", "s"));
bridge_export ("exit_now", @exit_now);

bridge_on ("conf.echo", @echo_event);
function value = once (event)
  bridge_state_update ("once", @(n) n + 1, 0, event);
  value = bridge_state_update ("once", @(n) n + 1, 0, event);
endfunction
bridge_on ("conf.once", @once);
bridge_on ("conf.batch", @(events) cellfun (@(event) event.data.n * 2, events), "batch", 10);
function c = double_columns (c, head)
  if (isfield (c, "fail")) error ("conf.columns was told to fail"); endif
  c.n = c.n * 2; c.id = head.ids;
endfunction
bridge_on ("conf.columns", @double_columns, "batch", "columns");
bridge_on ("conf.fail", @(event) error ("conf.fail always fails"));
bridge_filter ("conf.filter", @extend_path, "priority", 10);

bridge_on_shutdown (@() bridge_state_set ("shutdown/octave", true));
