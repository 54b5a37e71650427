1;  # kernelbridge shim for Octave on octave_kernel: the plugin protocol (docs/protocol.md) between this interpreter and
    # its host. A script file that defines functions: bridge_* for authors, __bridge_*__ for itself. Its state is the
    # global struct __bridge__. Octave can't catch an interrupt: what must happen after one stands in cleanup blocks.

# ---- JSON (README.md has the mapping). jsondecode can't tell `[]` from null nor `[{...}]` from `{...}`. So, outside of
# strings, a mark replaces the first, and stands first in the second, which makes jsondecode choose a cell array.
function value = __bridge_decode__ (text)
  mark = "\"\\u0001[\""; head = text(1:min (end, 60));
  args = strfind (text, "],\"args\":[");  # of a call: a cell array too, even if they are all numbers
  if (isempty (strfind (head, "\"method\":\"call\""))) args = []; endif
  at = [args, 0](1) + 10;
  if (! isempty (args) && text(at) != "]") text = [text(1:at-1), mark, ",", text(at:end)]; endif
  objects = strfind (text, "[{"); empties = strfind (text, "[]");
  if (strfind (head, "\"method\":\"series\"")) objects(objects == strfind (text, ",\"events\":[{")(1) + 10) = []; endif
  if (! isempty ([objects, empties]))
    quotes = text == "\"";
    backslashes = diff ([false, text == "\\", false]); after = find (backslashes == -1);
    quotes(after(mod (after - find (backslashes == 1), 2) == 1)) = false;  # the escaped ones
    inside = mod (cumsum (quotes), 2) == 1;
    empties = empties(! inside(empties));
    text(objects(! inside(objects))) = "\002";  # JSON text holds no raw control characters
    text(empties) = "\001"; text(empties + 1) = " ";
    text = strrep (strrep (text, "\001", mark), "\002", ["[" mark ","]);
  endif
  value = jsondecode (text, "makeValidName", false);
  if (! isempty ([args, objects, empties])) value = __bridge_unmark__ (value); endif
  if (! isempty (strfind (text, "\"$blob\":"))) value = __bridge_unblob__ (value); endif
endfunction
# Large values: files, or chunks of base64. In files the last index varies first, in Octave the first.
function value = __bridge_unblob__ (value)
  if (iscell (value)) value = cellfun (@__bridge_unblob__, value, "UniformOutput", false); return; endif
  if (! isstruct (value)) return; endif
  if (! isscalar (value) || ! all (isfield (value, {"$blob", "dtype", "shape"})))
    for i = 1:numel (value), for name = fieldnames (value)'
      value(i).(name{1}) = __bridge_unblob__ (value(i).(name{1}));
    endfor, endfor
    return;
  endif
  content = value.("$blob"); shape = value.shape; if (iscell (shape)) shape = [shape{:}]; endif
  kind = regexprep (value.dtype, {"^f64$", "^f32$", "^i(\\d)", "^u(\\d)", "^bool$"}, ...
                    {"double", "single", "int$1", "uint$1", "uint8"});
  if (ischar (content) && ! isempty (content))
    file = fopen (content, "r"); if (file < 0) error ("there is no blob %s", content); endif
    data = fread (file, Inf, [kind "=>" kind], 0, "ieee-le"); fclose (file);
  else
    if (ischar (content)) content = {}; endif
    bytes = cellfun (@matlab.net.base64decode, content(:)', "UniformOutput", false);
    data = typecast ([uint8([]), bytes{:}], kind)(:);
  endif
  if (strcmp (value.dtype, "bool")) data = logical (data); endif
  if (numel (shape) > 1) data = permute (reshape (data, fliplr (shape(:)')), numel (shape):-1:1); endif
  value = data;
endfunction
function value = __bridge_blob__ (data)
  global __bridge__
  data = full (data); shape = size (data); if (isvector (data)) shape = numel (data); endif
  if (numel (shape) > 1) data = permute (data, numel (shape):-1:1); endif
  name = regexprep (class (data), {"double", "single", "^uint", "^int", "logical"}, {"f64", "f32", "u", "i", "bool"});
  if (islogical (data)) data = uint8 (data); endif
  if (isempty (__bridge__.up))
    bytes = typecast (data(:), "uint8")(:)'; content = {};
    for at = 1:786432:numel (bytes) content{end+1} = matlab.net.base64encode (bytes(at:min (at + 786431, end))); endfor
  else
    content = fullfile (getenv ("KERNELBRIDGE_BLOBS"), sprintf ("%d", ++__bridge__.blobs));
    file = fopen (content, "w");
    if (file < 0 || fwrite (file, data, class (data), 0, "ieee-le") < numel (data) || fclose (file) < 0)
      error ("a value of %d bytes cannot be written to %s", sizeof (data), content);
    endif
  endif
  value = struct ("$blob", {content}, "dtype", name, "shape", {num2cell(shape)});
endfunction
function value = __bridge_unmark__ (value)
  if (isstruct (value) && ! isscalar (value))  # the events of a series: as a cell array they would take ten times as long
    for i = 1:numel (value) value(i) = __bridge_unmark__ (value(i)); endfor
  elseif (isstruct (value))
    for [member, name] = value, if (! isnumeric (member)) value.(name) = __bridge_unmark__ (member); endif, endfor
  elseif (iscell (value))
    if (numel (value) > 1 && strcmp (value{1}, "\001[")) value(1) = []; endif
    value(strcmp (value, "\001[")) = {{}};
    nested = cellfun ("isclass", value, "cell") | cellfun ("isclass", value, "struct");
    value(nested) = cellfun (@__bridge_unmark__, value(nested), "UniformOutput", false);
  elseif (strcmp (value, "\001[")) value = {};
  endif
endfunction
# jsonencode refuses single and 64-bit integers, gets null and complex wrong, writes what is smaller than eps as 0, and
# crashes Octave at an empty struct array. So small numbers go through it as marked strings.
function text = __bridge_encode__ (value)
  text = jsonencode (__bridge_plain__ (value));
  if (! isempty (strfind (text, "\"\\u0001~"))) text = regexprep (text, "\"\\\\u0001~([^\"]*)\"", "$1"); endif
endfunction
function value = __bridge_plain__ (value)
  if ((isnumeric (value) || islogical (value)) && isreal (value) && sizeof (value) >= 65536)
    value = __bridge_blob__ (value); return;
  endif
  if (isnumeric (value) && isreal (value))
    if (any (size (value))) value = double (value); else value = NaN; endif
    if (! any (value(:) > 0 & value(:) < eps)) return; endif
    if (isscalar (value)) value = sprintf ("\001~%.15g", value); return; endif
    if (isvector (value)) value = value(:); endif
    rows = cellfun (@(row) shiftdim (row, 1), num2cell (value, 2:ndims (value)), "UniformOutput", false);
    value = cellfun (@__bridge_plain__, rows, "UniformOutput", false);
  elseif (iscell (value))
    plain = cellfun ("isclass", value, "char");
    numbers = cellfun ("isclass", value, "double") & cellfun ("isreal", value) & cellfun ("prodofsize", value) == 1;
    plain(numbers) = ! ([value{numbers}] > 0 & [value{numbers}] < eps);
    value(! plain) = cellfun (@__bridge_plain__, value(! plain), "UniformOutput", false);
  elseif (isstruct (value) && isscalar (value))
    for [member, name] = value
      plain = isa (member, "double") && isreal (member) && isscalar (member) && ! (member > 0 && member < eps);
      if (! plain && ! ischar (member)) value.(name) = __bridge_plain__ (member); endif
    endfor
  elseif (isstruct (value))
    value = arrayfun (@__bridge_plain__, value, "UniformOutput", false);
  elseif (! ischar (value) && ! islogical (value))
    error ("a value of class %s has no JSON form", class (value));  # a complex one is of class double
  endif
endfunction

# ---- Carriers (the prompts end in octave_kernel's own mark)
function __bridge_say__ (varargin)
  global __bridge__
  text = ["{\"jsonrpc\":\"2.0\"," varargin{:} "}"];
  if (any (text > 127)) text = __u8_validate__ (text); endif
  if (isempty (__bridge__.up)) __bridge__.heard = builtin ("input", ["\n" text "__stdin_prompt>"], "s"); return; endif
  fprintf (__bridge__.up, "%d\n%s\n", numel (text) + 1, text); fflush (__bridge__.up);
endfunction
function message = __bridge_hear__ ()
  global __bridge__
  do
    text = __bridge__.heard; __bridge__.heard = "";
    if (! isempty (__bridge__.down))
      if (__bridge__.torn) text = __bridge_line__ (); else text = fgetl (__bridge__.down); endif
      bytes = str2double (text);
      if (! isnan (bytes)) text = fread (__bridge__.down, [1, bytes], "uint8=>char"); endif
      if (isempty (text) || ! ischar (text)) __bridge__.ended = true; error ("the host has closed the pipe"); endif
      if (! isnan (bytes) && text(end) != "\n") text = [text, __bridge_line__()]; endif
    elseif (isempty (text))
      text = builtin ("input", "\n[]__stdin_prompt>", "s");
    endif
    if (! __bridge__.torn) message = __bridge_decode__ (text); endif
    if (__bridge__.torn) eval ("message = __bridge_decode__ (text);", "message = [];"); endif  # it may be a part of one
  until (isstruct (message))
  __bridge__.torn = false;
endfunction
# The rest of a line, of which an interrupt may have taken something. fgetl is faster, but waits for what comes after it.
function text = __bridge_line__ ()
  global __bridge__
  text = "";
  do
    byte = fread (__bridge__.down, 1, "uint8=>char"); text = [text, byte];
  until (isempty (byte) || byte == "\n")
endfunction
function __bridge_notify__ (method, params)
  global __bridge__; if (__bridge__.ended) return; endif
  __bridge_say__ ("\"method\":\"", method, "\",\"params\":", __bridge_encode__ (params));
  while (isempty (__bridge__.down) && ! strcmp (__bridge_hear__ ().method, "continue")) endwhile
endfunction
function result = __bridge_request__ (method, params)
  global __bridge__
  params = __bridge_encode__ (params); id = ++__bridge__.sent;
  if (! __bridge__.ended) __bridge_say__ (sprintf ("\"id\":%d,\"method\":\"%s\",\"params\":", id, method), params); endif
  message.id = 0;
  while (! __bridge__.ended && (isfield (message, "method") || message.id != id))
    message = __bridge_hear__ (); __bridge_serve__ (message);
  endwhile
  if (__bridge__.ended) message.error = __bridge_problem__ ("Cancelled", -32003, "the turn is over"); endif
  if (isfield (message, "error"))
    __bridge__.failure = message.error; error (["bridge:" message.error.data.kind], "%s", message.error.message);
  endif
  result = message.result;
endfunction
function __bridge_serve__ (message)
  global __bridge__
  if (! isfield (message, "method")) return; endif
  if (strcmp (message.method, "end")) __bridge__.ended = true; endif
  if (! isfield (message, "id") || message.id <= __bridge__.served) return; endif
  __bridge__.served = message.id; ++__bridge__.depth;
  is_series = strcmp (message.method, "series"); began = tic (); outcomes = "";
  answer = cancelled = "\"error\":{\"code\":-32003,\"message\":\"interrupted\",\"data\":{\"kind\":\"Cancelled\"}}";
  unwind_protect
    if (! is_series) answer = __bridge_answer__ (message); events = {}; else events = message.params.events'; endif
    for event = events  # one after the other, until one fails or time is up
      event.chain = message.params.chain; answer = cancelled; each = tic ();
      unwind_protect
        answer = __bridge_answer__ (struct ("method", "event", "params", event));
      unwind_protect_cleanup
        outcomes = [outcomes "{" answer sprintf(",\"ms\":%.3f},", toc (each) * 1000)];
      end_unwind_protect
      if (__bridge__.ended || answer(2) == "e" || toc (began) * 1000 > message.params.within_ms) break; endif
    endfor
  unwind_protect_cleanup
    --__bridge__.depth; fflush (stdout); fflush (stderr);
    if (is_series) answer = ["\"result\":{\"outcomes\":[" outcomes(1:end-1) "]}"]; endif
    if (! __bridge__.ended) __bridge_say__ (sprintf ("\"id\":%d,", message.id), answer); endif
  end_unwind_protect
endfunction
function __bridge_loop__ ()
  global __bridge__
  unwind_protect
    while (! __bridge__.ended) __bridge_serve__ (__bridge_hear__ ()); endwhile
  unwind_protect_cleanup
    if (! __bridge__.ended) __bridge__.torn = true; __bridge_loop__ (); endif  # after an interrupt the turn goes on
    for file = [__bridge__.up, __bridge__.down] fclose (file); endfor
    __bridge__.up = __bridge__.down = __bridge__.heard = [];
  end_unwind_protect
endfunction
function __bridge_turn__ (carrier)
  global __bridge__
  if (strcmp (carrier, "pipe"))
    __bridge__.up = fopen (fullfile (getenv ("KERNELBRIDGE_DIR"), "to-host"), "w");
    __bridge__.down = fopen (fullfile (getenv ("KERNELBRIDGE_DIR"), "to-plugin"), "r");
    fcntl (__bridge__.up, F_SETFD, 1); fcntl (__bridge__.down, F_SETFD, 1);  # FD_CLOEXEC
  endif
  __bridge__.ended = __bridge__.torn = false; __bridge_say__ ("\"method\":\"ready\""); __bridge_loop__ ();
endfunction

# ---- Running author code. Only a statement's `ans` suits both functions that return a value and functions that don't.
function value = __bridge_invoke__ (fn, args), ans = []; feval (fn, args{:}); value = ans; endfunction
function p = __bridge_problem__ (kind, code, text), p = struct ("code", code, "message", text, "data", struct ("kind", kind)); end
function problem = __bridge_raised__ (err)
  global __bridge__; problem = __bridge_problem__ ("NotFound", -32601, err.message);
  if (strcmp (err.identifier, "kernelbridge:NotFound")) return; endif
  name = err.identifier; if (isempty (name)) name = "error"; endif
  trace = {}; if (strcmp (name, "Octave:parse-error")) trace = ostrsplit (err.message, "\n", true); endif
  for frame = err.stack'  # innermost first, as Octave shows it
    if (strcmp (frame.name, "__bridge_invoke__")) break; endif
    if (any (regexp (frame.name, "^(__)?bridge_"))) continue; endif
    trace{end+1} = regexprep (sprintf ("%s:%d: %s", frame.file, frame.line, frame.name), "[^:]*/~?", "");
  endfor
  problem = __bridge_problem__ ("Raised", -32000, [name ": " err.message]);
  problem.data = struct ("kind", "Raised", "ename", name, "evalue", err.message, "traceback", {trace});
  own = strcmp (err.message, __bridge__.failure.message) && strncmp (name, "bridge:", 7);
  if (own) problem.data.cause = __bridge__.failure; endif
endfunction
function text = __bridge_answer__ (message)
  done = false;
  try
    value = __bridge_perform__ (message); done = true;
    text = ["\"result\":" __bridge_encode__(value)];
  catch err
    if (done) problem = __bridge_problem__ ("Invalid", -32602, err.message); else problem = __bridge_raised__ (err); endif
    text = ["\"error\":" __bridge_encode__(problem)];
  end_try_catch
endfunction

# ---- The messages of the host
function value = __bridge_perform__ (message)
  global __bridge__; params = struct (); if (isfield (message, "params")) params = message.params; endif
  if (__bridge__.depth > 100) error ("more than 100 nested calls"); endif
  known = ! isfield (params, "handler") || params.handler <= numel (__bridge__.functions);
  if (! known) error ("kernelbridge:NotFound", "no handler %d", params.handler); endif
  switch (message.method)
    case "initialize"
      __bridge__.config = params.config;
      if (isfield (params, "folder")) cd (params.folder); endif
      value = struct ("bridge", "1", "language", "octave", "interpreter", ["GNU Octave " version()], "features", {{"blob", "series", "columns"}});
    case "load"
      value = __bridge_load__ (params);
    case {"event", "filter"}
      value = __bridge_invoke__ (__bridge__.functions{params.handler}, {rmfield(params, "handler")});
    case "events"
      values = __bridge_invoke__ (__bridge__.functions{params.handler}, {params.events});
      if (isnumeric (values) || islogical (values)) values = num2cell (values); endif
      if (! iscell (values) || numel (values) != numel (params.events)) values = cell (1, numel (params.events)); endif
      value.outcomes = cellfun (@__bridge_outcome__, values, "UniformOutput", false);
    case "columns"
      fn = __bridge__.functions{params.handler}; n = params.count; args = {params.columns};
      if (isempty (args{1})) args = {struct()}; endif
      if (abs (nargin (fn)) > 1) args{2} = __bridge_head__ (params); endif
      values = __bridge_invoke__ (fn, args); value = struct ("done", n);
      if (isnumeric (values) || islogical (values)) values = num2cell (values(:)); endif
      if (iscell (values) && numel (values) == n)
        value = struct ("outcomes", {cellfun(@__bridge_outcome__, values, "UniformOutput", false)});
      elseif (isstruct (values) && isscalar (values) && numfields (values) > 0)
        columns = structfun (@(column) __bridge_column__ (column, n), values, "UniformOutput", false);
        if (all (structfun ("iscell", columns))) value = struct ("columns", columns); endif
      endif
    case "call"
      if (! isfield (__bridge__.exports, params.name)) error ("kernelbridge:NotFound", "no function `%s`", params.name); endif
      value = __bridge_invoke__ (__bridge__.exports.(params.name), params.args);
    case "shutdown"
      value = []; for fn = __bridge__.shutdowns __bridge_invoke__ (fn{1}, {}); endfor
    otherwise
      error ("kernelbridge:NotFound", "no method `%s`", message.method);
  endswitch
endfunction
function column = __bridge_column__ (column, n)  # as a cell array, whose JSON is an array also if it holds one value
  if ((isnumeric (column) || islogical (column)) && rows (column(:)) == n) column = num2cell (column(:)); endif
  if (! iscell (column) || numel (column) != n) column = []; endif
endfunction
function head = __bridge_head__ (params)  # what the events of a batch have beside their data
  head.count = params.count; head.ids = head.topics = head.times = head.attempts = head.keys = {};
  for name = {"ids", "topics", "times", "attempts", "keys"}
    runs = params.(name{1}); if (! iscell (runs)) runs = num2cell (runs, 2); endif
    for run = runs(:)'
      run = run{1}; if (! iscell (run)) run = num2cell (run); endif
      if (! strcmp (name{1}, "ids")) items = repmat (run(1), 1, run{2});
      elseif (numel (run) == 1) items = run;
      else items = arrayfun (@(i) sprintf ("%s%d", run{1}, i), run{2} + (0:run{3}-1), "UniformOutput", false); endif
      head.(name{1}) = [head.(name{1}), items(:)'];
    endfor
  endfor
  head.attempts = cell2mat (head.attempts);
endfunction
function o = __bridge_outcome__ (value)  # of one event of a batch; what `catch err` gives is a plain struct
  if (all (isfield (value, {"message", "identifier", "stack"}))) o.error = __bridge_raised__ (value); else o.result = value; endif
endfunction
function value = __bridge_load__ (params)
  global __bridge__; __bridge__.handlers = __bridge__.functions = __bridge__.shutdowns = {}; __bridge__.exports = struct ();
  if (ischar (params.path)) addpath (fileparts (params.path)); endif  # for functions with a file of their own
  for cell = params.cells'
    file = fullfile (__bridge__.folder, ["~" cell{1}.name]);  # source() looks for a function of that name first
    __bridge_write__ (file, ["1;" cell{1}.source "\n"]);      # a script, also if it begins with a function
    try
      __bridge_invoke__ ("source", {file, "base"});
    catch err
      if (! strcmp (err.message, ["source: error sourcing file '" file "'"])) rethrow (err); endif
      eval ("__parse_file__ (file);", "");  # says where the error is, which source() doesn't
      error ("Octave:parse-error", "%s", strrep (strtrim (lasterr ()), file, cell{1}.name));
    end_try_catch
  endfor
  value = struct ("handlers", {__bridge__.handlers}, "async", false);
endfunction
function __bridge_write__ (name, text), file = fopen (name, "w"); fputs (file, text); fclose (file); endfunction

# ---- What authors see
# A handle is kept as the name of its function if it has one: Octave 7 looks for what a handle means in its own library
# first (`fail`), but for what a name means among the plugin's functions.
function __bridge_register__ (kind, name, topic, fn, varargin)
  global __bridge__
  if (is_function_handle (fn) && strcmp (functions (fn).type, "simple")) fn = func2str (fn); endif
  id = numel (__bridge__.handlers) + 1;
  __bridge__.functions{id} = fn;
  __bridge__.handlers{id} = struct ("id", id, "kind", kind, "name", name, "topic", topic, varargin{:});
  if (strcmp (kind, "export")) __bridge__.exports.(name) = fn; endif
endfunction
# FN (EVENT); bridge_on (TOPIC, FN, "batch", N): FN (EVENTS), a cell array of at most N.
# "batch", "columns": FN (COLUMNS) or FN (COLUMNS, HEAD), a struct with an array for each key.
function bridge_on (topic, fn, varargin)
  at = find (strcmp (varargin, "columns"));
  if (! isempty (at)) varargin = {"batch", 0, "columns", "columns"}; endif
  __bridge_register__ ("on", topic, topic, fn, varargin{:});
endfunction
# EVENT = FN (EVENT), or [] to drop it; also bridge_filter (TOPIC, FN, "priority", N).
function bridge_filter (topic, fn, varargin), __bridge_register__ ("filter", topic, topic, fn, varargin{:}); endfunction
function bridge_export (name, fn)  # the help text of FN goes along
  [doc, format] = get_help_text (func2str (fn)); if (! strcmp (format, "plain text")) doc = ""; endif
  __bridge_register__ ("export", name, "", fn, "doc", strtrim (doc));
endfunction
function bridge_on_shutdown (fn), global __bridge__; __bridge__.shutdowns{end+1} = fn; endfunction
function config = bridge_config (), global __bridge__; config = __bridge__.config; endfunction
function value = bridge_call (name, varargin), value = __bridge_request__ ("call", struct ("name", name, "args", {varargin})); end
function bridge_emit (topic, data = [], key = [])
  __bridge_request__ ("emit", struct ("topic", topic, "data", {data}, "key", key)); endfunction
function value = __bridge_or__ (value, default), if (isnumeric (value) && isempty (value)) value = default; endif, endfunction
function value = bridge_state_get (key, default = []), value = __bridge_or__ (bridge_call ("state.get", key), default); endfunction
function version = bridge_state_set (key, value), version = bridge_call ("state.set", key, value); endfunction
function existed = bridge_state_delete (key), existed = bridge_call ("state.delete", key); endfunction
function keys = bridge_state_list (prefix = ""), keys = bridge_call ("state.list", prefix); endfunction
function value = bridge_state_update (key, fn, default = [], once = [])  # once: for this event, however often it comes
  do
    old = bridge_call ("state.read", key);
    value = feval (fn, __bridge_or__ (old.value, default));
    if (isempty (once)) swap = bridge_call ("state.swap", key, old.version, value); swap.done = false;
    else swap = bridge_call ("state.once", once.id, key, old.version, value); endif
    if (swap.done && ! swap.swapped) value = old.value; endif
  until (swap.swapped || swap.done)
endfunction
function bridge_log (level, message, fields = [])
  __bridge_notify__ ("log", struct ("level", level, "message", message, "fields", {fields})); endfunction
function bridge_progress (done, total = [], message = [])
  __bridge_notify__ ("progress", struct ("done", done, "total", total, "message", message)); endfunction
# The last error of a bridge_call, for a catch block: Octave's own error has only room for the kind ("bridge:Denied").
function problem = bridge_failure (), global __bridge__; problem = __bridge__.failure; endfunction

# ---- Setup
# A script that begins with `clear all` would remove the shim with everything else.
function clear (varargin)
  whole = any (ismember (varargin, {"all", "-all", "-a", "functions", "-functions", "-f"}));
  if (whole || isempty (varargin)) varargin = {"-variables"}; endif
  evalin ("caller", ["builtin (\"clear\"" sprintf(", '%s'", varargin{:}) ");"]);
endfunction
# The author's keyboard reads become a host call. octave_kernel's input() is a class constructor, which only another hides.
function value = __bridge_input__ (prompt = "", varargin)
  global __bridge__
  if (__bridge__.ended) value = builtin ("input", [prompt "__stdin_prompt>"], "s"); endif
  if (! __bridge__.ended) value = bridge_call ("host.input", prompt); endif
  if (isempty (varargin)) value = evalin ("base", value); endif
endfunction
global __bridge__
__bridge__ = struct ("up", [], "down", [], "heard", "", "torn", false, "ended", true, "sent", 0, "served", 0, "depth", 0,
                     "blobs", 0);
__bridge__.failure.message = "";
__bridge__.folder = fullfile (getenv ("KERNELBRIDGE_DIR"), "octave");
mkdir (fullfile (__bridge__.folder, "@input"));
__bridge_write__ (fullfile (__bridge__.folder, "@input", "input.m"),
                  "function x = input (varargin), x = __bridge_input__ (varargin{:}); end\n");
addpath (__bridge__.folder);
max_recursion_depth (1000);    # frames of any function, not 256: a nested call takes 8
warning ("off", "backtrace");  # it would show the shim's frames under every warning
system ("stty -icanon");       # else the terminal cuts what the kernel answers to input() at 4095 bytes
# Octave that is ended by a signal, as it is when its wrapper dies, would leave `octave-workspace` beside the plugin.
sighup_dumps_octave_core (false); sigterm_dumps_octave_core (false);
sigquit_dumps_octave_core (false); crash_dumps_octave_core (false);
