1;  # kernelbridge shim for Octave on octave_kernel: the plugin protocol (docs/protocol.md) between this interpreter and
    # its host. A script file that defines functions: bridge_* for authors, __bridge_*__ for itself. Its state is the
    # global struct __bridge__. Octave can't catch an interrupt: what must happen after one stands in cleanup blocks.

# ---- JSON (README.md has the mapping). jsondecode can't tell `[]` from null nor `[{...}]` from `{...}`. So, outside of
# strings, a mark replaces the first, and stands first in the second, which makes jsondecode choose a cell array.
function value = __bridge_decode__ (text)
  mark = "\"\\u0001[\"";
  args = strfind (text, "],\"args\":[");  # arguments must be a cell array too, even if they are all numbers
  if (! isempty (args) && text(args(1) + 10) != "]")
    text = [text(1:args(1) + 9), mark, ",", text(args(1) + 10:end)];
  endif
  objects = strfind (text, "[{");
  empties = strfind (text, "[]");
  if (isempty ([args, objects, empties]))
    value = jsondecode (text, "makeValidName", false);
    return;
  endif
  quotes = text == "\"";
  backslashes = diff ([false, text == "\\", false]);
  after = find (backslashes == -1);
  quotes(after(mod (after - find (backslashes == 1), 2) == 1)) = false;  # the escaped ones
  inside = mod (cumsum (quotes), 2) == 1;
  empties = empties(! inside(empties));
  text(objects(! inside(objects))) = "\002";  # JSON text holds no raw control characters
  text(empties) = "\001";
  text(empties + 1) = " ";
  text = strrep (strrep (text, "\001", mark), "\002", ["[" mark ","]);
  value = __bridge_unmark__ (jsondecode (text, "makeValidName", false));
endfunction

function value = __bridge_unmark__ (value)
  if (isstruct (value))
    for [member, name] = value
      if (! isnumeric (member)) value.(name) = __bridge_unmark__ (member); endif
    endfor
  elseif (iscell (value))
    if (numel (value) > 1 && strcmp (value{1}, "\001[")) value(1) = []; endif
    value(strcmp (value, "\001[")) = {{}};
    for i = find (cellfun ("isclass", value, "cell") | cellfun ("isclass", value, "struct"))'
      value{i} = __bridge_unmark__ (value{i});
    endfor
  elseif (strcmp (value, "\001["))
    value = {};
  endif
endfunction

function text = __bridge_encode__ (value)
  text = jsonencode (__bridge_plain__ (value));
endfunction

# What jsonencode refuses or gets wrong: null, single and 64-bit integers, complex. An empty struct array crashes Octave.
function value = __bridge_plain__ (value)
  if (isnumeric (value) && isreal (value))
    if (isequal (size (value), [0, 0])) value = NaN; else value = double (value); endif
  elseif (iscell (value))
    fine = cellfun ("isclass", value, "double") & ! cellfun ("isempty", value) & cellfun ("isreal", value);
    for i = find (! (fine | cellfun ("isclass", value, "char")))(:)'
      value{i} = __bridge_plain__ (value{i});
    endfor
  elseif (isstruct (value) && isscalar (value))
    for [member, name] = value
      if (! ischar (member)) value.(name) = __bridge_plain__ (member); endif
    endfor
  elseif (isstruct (value))
    value = arrayfun (@__bridge_plain__, value, "UniformOutput", false);
  elseif (! ischar (value) && ! islogical (value))
    error ("a value of class %s has no JSON form", class (value));  # a complex one is of class double
  endif
endfunction

# ---- Carriers
function __bridge_say__ (varargin)
  global __bridge__
  text = ["{\"jsonrpc\":\"2.0\"," varargin{:} "}"];
  if (any (text > 127)) text = __u8_validate__ (text); endif
  if (isempty (__bridge__.up))
    __bridge__.heard = builtin ("input", ["\n" text "__stdin_prompt>"], "s");  # the suffix is octave_kernel's
  else
    fprintf (__bridge__.up, "%d\n%s\n", numel (text) + 1, text);
    fflush (__bridge__.up);
  endif
endfunction

function message = __bridge_hear__ ()
  global __bridge__
  do
    text = __bridge__.heard;
    __bridge__.heard = "";
    if (! isempty (__bridge__.down))
      text = fgetl (__bridge__.down);
      if (! ischar (text))
        __bridge__.ended = true;
        error ("the host has closed the pipe");
      endif
      bytes = str2double (text);
      if (! isnan (bytes))  # else an interrupt took the length away
        text = fread (__bridge__.down, [1, bytes], "uint8=>char");  # fgetl would wait for what comes after the line
      endif
    elseif (isempty (text))
      text = builtin ("input", "\n[]__stdin_prompt>", "s");
    endif
    try
      message = __bridge_decode__ (text);
    catch
      message = [];  # an interrupt took part of it away; whoever waited for it is gone too
    end_try_catch
  until (isstruct (message))
endfunction

function __bridge_notify__ (method, params)
  global __bridge__
  if (__bridge__.ended) return; endif
  __bridge_say__ ("\"method\":\"", method, "\",\"params\":", __bridge_encode__ (params));
  while (isempty (__bridge__.down) && ! strcmp (__bridge_hear__ ().method, "continue"))
  endwhile
endfunction

function result = __bridge_request__ (method, params)
  global __bridge__
  params = __bridge_encode__ (params);
  id = ++__bridge__.sent;
  if (! __bridge__.ended)
    __bridge_say__ (sprintf ("\"id\":%d,\"method\":\"%s\",\"params\":", id, method), params);
  endif
  message = struct ("id", 0);
  while (! __bridge__.ended && (isfield (message, "method") || message.id != id))
    message = __bridge_hear__ ();
    if (isfield (message, "method")) __bridge_serve__ (message); endif
  endwhile
  if (__bridge__.ended)
    message.error = __bridge_problem__ ("Cancelled", -32003, "the turn is over");
  endif
  if (isfield (message, "error"))
    __bridge__.failure = message.error;
    error (["bridge:" message.error.data.kind], "%s", message.error.message);
  endif
  result = message.result;
endfunction

function __bridge_serve__ (message)
  global __bridge__
  if (strcmp (message.method, "end")) __bridge__.ended = true; endif
  if (! isfield (message, "id") || message.id <= __bridge__.served) return; endif
  __bridge__.served = message.id;
  answer = "\"error\":{\"code\":-32003,\"message\":\"interrupted\",\"data\":{\"kind\":\"Cancelled\"}}";
  unwind_protect
    answer = __bridge_answer__ (message);
  unwind_protect_cleanup
    if (! __bridge__.ended)
      fflush (stdout);
      fflush (stderr);
      __bridge_say__ (sprintf ("\"id\":%d,", message.id), answer);
    endif
  end_unwind_protect
endfunction

function __bridge_loop__ ()
  global __bridge__
  unwind_protect
    while (! __bridge__.ended)
      message = __bridge_hear__ ();
      if (isfield (message, "method")) __bridge_serve__ (message); endif
    endwhile
  unwind_protect_cleanup
    if (! __bridge__.ended) __bridge_loop__ (); endif  # after an interrupt the turn goes on in its wake
  end_unwind_protect
endfunction

function __bridge_turn__ (carrier)
  global __bridge__
  unwind_protect
    if (strcmp (carrier, "pipe"))
      __bridge__.up = fopen (fullfile (getenv ("KERNELBRIDGE_DIR"), "to-host"), "w");
      __bridge__.down = fopen (fullfile (getenv ("KERNELBRIDGE_DIR"), "to-plugin"), "r");
      fcntl (__bridge__.up, F_SETFD, 1);  # FD_CLOEXEC
      fcntl (__bridge__.down, F_SETFD, 1);
    endif
    __bridge__.ended = false;
    __bridge_say__ ("\"method\":\"ready\"");
    __bridge_loop__ ();
  unwind_protect_cleanup
    __bridge__.ended = true;
    __bridge__.heard = "";
    if (! isempty (__bridge__.up)) fclose (__bridge__.up); endif
    if (! isempty (__bridge__.down)) fclose (__bridge__.down); endif
    __bridge__.up = __bridge__.down = [];
  end_unwind_protect
endfunction

# ---- Running author code. An expression statement sets `ans` if there is a value: no other way calls functions that
# return one and functions that don't.
function value = __bridge_invoke__ (fn, args)
  ans = [];
  feval (fn, args{:});
  value = ans;
endfunction

function value = __bridge_perform__ (method, params)
  global __bridge__
  switch (method)
    case "initialize"
      __bridge__.config = params.config;
      value = struct ("bridge", "1", "language", "octave", "interpreter", ["GNU Octave " version()], "features", {{}});
    case "load"
      value = __bridge_load__ (params);
    case {"event", "filter"}
      value = __bridge_invoke__ (__bridge_handler__ (params.handler), {rmfield(params, "handler")});
    case "events"
      value = __bridge_invoke__ (__bridge_handler__ (params.handler), {params.events});
      n = numel (params.events);
      if (isnumeric (value) || islogical (value)) value = num2cell (value); endif
      if (! iscell (value) || numel (value) != n) value = cell (1, n); endif
      failed = cellfun ("isclass", value, "MException");
      value(! failed) = cellfun (@(v) struct ("result", {v}), value(! failed), "UniformOutput", false);
      value(failed) = cellfun (@(err) struct ("error", __bridge_raised__ (err)), value(failed), "UniformOutput", false);
      value = struct ("outcomes", {value});
    case "call"
      if (! isfield (__bridge__.exports, params.name))
        error ("kernelbridge:NotFound", "no function `%s`", params.name);
      endif
      value = __bridge_invoke__ (__bridge__.exports.(params.name), params.args);
    case "shutdown"
      cellfun (@(fn) __bridge_invoke__ (fn, {}), __bridge__.shutdowns, "UniformOutput", false);
      value = [];
    otherwise
      error ("kernelbridge:NotFound", "no method `%s`", method);
  endswitch
endfunction

function value = __bridge_load__ (params)
  global __bridge__
  __bridge__.handlers = __bridge__.functions = __bridge__.shutdowns = {};
  __bridge__.exports = struct ();
  if (ischar (params.path)) addpath (fileparts (params.path)); endif  # for functions with a file of their own
  for cell = params.cells'
    file = fullfile (__bridge__.folder, ["." cell{1}.name]);  # source() would take a script on the load path for a function
    fid = fopen (file, "w");
    fputs (fid, [cell{1}.source "\n"]);
    fclose (fid);
    try
      __bridge_invoke__ ("source", {file, "base"});
    catch err
      if (! strcmp (err.message, ["source: error sourcing file '" file "'"])) rethrow (err); endif
      try
        warning ("off", "Octave:function-name-clash", "local");
        __parse_file__ (file);  # says where the error is, which source() doesn't
      catch err
        error ("Octave:parse-error", "%s", strrep (strtrim (err.message), file, cell{1}.name));
      end_try_catch
    end_try_catch
  endfor
  value = struct ("handlers", {__bridge__.handlers}, "async", false);
endfunction

function fn = __bridge_handler__ (id)
  global __bridge__
  if (id > numel (__bridge__.functions)) error ("kernelbridge:NotFound", "no handler %d", id); endif
  fn = __bridge__.functions{id};
endfunction

function problem = __bridge_problem__ (kind, code, message)
  problem = struct ("code", code, "message", message, "data", struct ("kind", kind));
endfunction

function problem = __bridge_raised__ (err)
  global __bridge__
  name = err.identifier;
  if (isempty (name)) name = "error"; endif
  trace = {};
  if (strcmp (name, "Octave:parse-error")) trace = ostrsplit (err.message, "\n", true); endif
  for frame = err.stack'  # innermost first, as Octave shows it
    if (strcmp (frame.name, "__bridge_invoke__")) break; endif
    if (isempty (regexp (frame.name, "^(__)?bridge_", "once")))
      trace{end+1} = sprintf ("%s:%d: %s", __bridge_file__ (frame.file), frame.line, __bridge_file__ (frame.name));
    endif
  endfor
  problem = __bridge_problem__ ("Raised", -32000, [name ": " err.message]);
  problem.data = struct ("kind", "Raised", "ename", name, "evalue", err.message, "traceback", {trace});
  if (strncmp (name, "bridge:", 7) && isstruct (__bridge__.failure) && strcmp (err.message, __bridge__.failure.message))
    problem.data.cause = __bridge__.failure;
  endif
endfunction

# The name that the host gave a cell; it is also the end of what Octave calls a frame of the script itself.
function name = __bridge_file__ (path)
  name = regexprep (path, "^.*/\\.?", "");
endfunction

function text = __bridge_answer__ (message)
  if (! isfield (message, "params")) message.params = []; endif
  try
    value = __bridge_perform__ (message.method, message.params);
  catch err
    if (strcmp (err.identifier, "kernelbridge:NotFound"))
      text = ["\"error\":" __bridge_encode__(__bridge_problem__ ("NotFound", -32601, err.message))];
    else
      text = ["\"error\":" __bridge_encode__(__bridge_raised__ (err))];
    endif
    return;
  end_try_catch
  try
    text = ["\"result\":" __bridge_encode__(value)];
  catch err
    text = ["\"error\":" __bridge_encode__(__bridge_problem__ ("Invalid", -32602, err.message))];
  end_try_catch
endfunction

# ---- What authors see. A handle to a function is kept as its name where it has one: Octave 7 looks for the function behind
# a handle in its own library first (`fail`), but for one called by name among the plugin's.
function __bridge_register__ (kind, name, topic, fn, varargin)
  global __bridge__
  if (is_function_handle (fn) && strcmp (functions (fn).type, "simple")) fn = func2str (fn); endif
  if (isempty (name)) name = fn; endif
  if (! ischar (name)) name = topic; endif
  id = numel (__bridge__.handlers) + 1;
  __bridge__.functions{id} = fn;
  __bridge__.handlers{id} = struct ("id", id, "kind", kind, "name", name, "topic", topic, varargin{:});
  if (strcmp (kind, "export")) __bridge__.exports.(name) = fn; endif
endfunction

# FN (EVENT); with bridge_on (TOPIC, FN, "batch", N) it is FN (EVENTS), a cell array of at most N.
function bridge_on (topic, fn, varargin)
  __bridge_register__ ("on", "", topic, fn, varargin{:});
endfunction

# EVENT = FN (EVENT), or [] to drop it. Also bridge_filter (TOPIC, FN, "priority", N).
function bridge_filter (topic, fn, varargin)
  __bridge_register__ ("filter", "", topic, fn, varargin{:});
endfunction

# The help text of FN goes along.
function bridge_export (name, fn)
  [doc, format] = get_help_text (func2str (fn));
  if (! strcmp (format, "plain text")) doc = ""; endif
  __bridge_register__ ("export", name, "", fn, "doc", strtrim (doc));
endfunction

function bridge_on_shutdown (fn), global __bridge__; __bridge__.shutdowns{end+1} = fn; endfunction
function config = bridge_config (), global __bridge__; config = __bridge__.config; endfunction
function result = bridge_call (name, varargin), result = __bridge_request__ ("call", struct ("name", name, "args", {varargin})); endfunction
function bridge_emit (topic, data = [], key = []), __bridge_request__ ("emit", struct ("topic", topic, "data", {data}, "key", key)); endfunction
function version = bridge_state_set (key, value), version = bridge_call ("state.set", key, value); endfunction
function existed = bridge_state_delete (key), existed = bridge_call ("state.delete", key); endfunction
function keys = bridge_state_list (prefix = ""), keys = bridge_call ("state.list", prefix); endfunction
function value = bridge_state_get (key, default = []), value = __bridge_default__ (bridge_call ("state.get", key), default); endfunction
function value = __bridge_default__ (value, default), if (isnumeric (value) && isempty (value)) value = default; endif, endfunction
function value = bridge_state_update (key, fn, default = [])
  do
    old = bridge_call ("state.read", key);
    value = feval (fn, __bridge_default__ (old.value, default));
  until (bridge_call ("state.swap", key, old.version, value).swapped)
endfunction
function bridge_log (level, message, fields = struct ())
  __bridge_notify__ ("log", struct ("level", level, "message", message, "fields", fields));
endfunction
function bridge_progress (done, total = [], message = [])
  __bridge_notify__ ("progress", struct ("done", done, "total", total, "message", message));
endfunction

# For a catch block, where Octave's error has room for the kind only ("bridge:Denied"): kind, message and data.
function failure = bridge_failure ()
  global __bridge__
  failure = struct ("kind", __bridge__.failure.data.kind, "message", __bridge__.failure.message, "data", __bridge__.failure.data);
endfunction

# ---- Setup. A script that begins with `clear all` would remove the shim with everything else.
function clear (varargin)
  if (any (ismember (varargin, {"all", "-all", "-a", "functions", "-functions", "-f"}))) varargin = {}; endif
  evalin ("caller", ["builtin (\"clear\"" sprintf(", \"%s\"", varargin{:}) ");"]);
endfunction

# The author's keyboard reads become a host call. octave_kernel's input() is a class constructor, which only another hides.
function value = __bridge_input__ (prompt = "", varargin)
  global __bridge__
  if (__bridge__.ended)
    value = builtin ("input", [prompt "__stdin_prompt>"], "s");
  else
    value = bridge_call ("host.input", prompt);
  endif
  if (isempty (varargin)) value = evalin ("base", value); endif
endfunction

global __bridge__
__bridge__ = struct ("up", [], "down", [], "heard", "", "ended", true, "sent", 0, "served", 0, "failure", []);
__bridge__.folder = fullfile (getenv ("KERNELBRIDGE_DIR"), "octave");
mkdir (fullfile (__bridge__.folder, "@input"));
__bridge__.file = fopen (fullfile (__bridge__.folder, "@input", "input.m"), "w");
fputs (__bridge__.file, "function x = input (varargin)\n  x = __bridge_input__ (varargin{:});\nendfunction\n");
fclose (__bridge__.file);
addpath (__bridge__.folder);
max_recursion_depth (5000);  # the default of 256 ends at 30 nested calls
system ("stty -icanon");     # else the terminal cuts what the kernel answers to input() at 4095 bytes
