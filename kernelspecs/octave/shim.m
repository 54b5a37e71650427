1;  # kernelbridge shim for Octave on octave_kernel: the plugin protocol (docs/protocol.md) between this interpreter and
    # its host. A script file that defines functions: bridge_* for authors, __bridge_*__ for itself; its state is the
    # global struct __bridge__. Octave can't catch an interrupt, so what must happen after one stands in cleanup blocks.

# ---- JSON (the mapping is in README.md). jsondecode can't tell `[]` from null nor `[{...}]` from `{...}`. So, outside of
# strings, a mark replaces the first and goes in front of the second, which makes jsondecode choose a cell array.

function value = __bridge_decode__ (text)
  mark = "\"\\u0001[\"";
  args = strfind (text, "],\"args\":[");  # arguments must be a cell array too, also if they are all numbers
  if (! isempty (args) && text(args(1) + 10) != "]")
    text = [text(1:args(1) + 9), mark, ",", text(args(1) + 10:end)];
  endif
  objects = strfind (text, "[{");
  empties = strfind (text, "[]");
  if (! isempty (objects) || ! isempty (empties))
    quotes = text == "\"";
    backslashes = diff ([false, text == "\\", false]);
    after = find (backslashes == -1);
    quotes(after(mod (after - find (backslashes == 1), 2) == 1)) = false;
    inside = mod (cumsum (quotes), 2) == 1;
    empties = empties(! inside(empties));
    text(objects(! inside(objects))) = "\002";  # JSON text holds no raw control characters
    text(empties) = "\001";
    text(empties + 1) = " ";
    text = strrep (strrep (text, "\001", mark), "\002", ["[" mark ","]);
  elseif (isempty (args))
    value = jsondecode (text, "makeValidName", false);
    return;
  endif
  value = __bridge_unmark__ (jsondecode (text, "makeValidName", false));
endfunction

function value = __bridge_unmark__ (value)
  if (isstruct (value))
    for [member, name] = value
      if (! isnumeric (member))
        value.(name) = __bridge_unmark__ (member);
      endif
    endfor
  elseif (iscell (value))
    marks = strcmp (value, "\001[");
    if (numel (value) > 1 && marks(1))
      value(1) = [];
      marks(1) = [];
    endif
    value(marks) = {{}};
    for i = find (cellfun ("isclass", value, "cell") | cellfun ("isclass", value, "struct"))'
      value{i} = __bridge_unmark__ (value{i});
    endfor
  elseif (strcmp (value, "\001["))
    value = {};
  endif
endfunction

# What jsonencode refuses or gets wrong: null, single and 64-bit integers, complex. An empty struct array crashes it.
function value = __bridge_plain__ (value)
  if (isnumeric (value))
    if (iscomplex (value))
      error ("bridge:Invalid", "a complex number has no JSON form");
    elseif (isequal (size (value), [0, 0]))
      value = NaN;
    else
      value = double (value);
    endif
  elseif (iscell (value))
    fine = cellfun ("isclass", value, "double") & ! cellfun ("isempty", value) & cellfun ("isreal", value);
    for i = find (! (fine | cellfun ("isclass", value, "char")))(:)'
      value{i} = __bridge_plain__ (value{i});
    endfor
  elseif (isstruct (value) && isscalar (value))
    for [member, name] = value
      if (! (ischar (member) || (isa (member, "double") && isreal (member) && ! isempty (member))))
        value.(name) = __bridge_plain__ (member);
      endif
    endfor
  elseif (isstruct (value))
    value = arrayfun (@__bridge_plain__, value, "UniformOutput", false);
  elseif (! ischar (value) && ! islogical (value))
    error ("bridge:Invalid", "a value of class %s has no JSON form", class (value));
  endif
endfunction

# ---- Carriers

function __bridge_say__ (varargin)
  global __bridge__
  text = ["{\"jsonrpc\":\"2.0\"," varargin{:} "}"];
  if (any (text > 127))
    text = __u8_validate__ (text);
  endif
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
    if (! isempty (__bridge__.down))
      text = fgetl (__bridge__.down);
      if (! ischar (text))
        error ("the host has closed the pipe");
      elseif (numel (text) > 4 && text(1) != "{")
        text = fread (__bridge__.down, [1, str2double(text)], "uint8=>char");  # much faster, but not for short ones
      endif
    elseif (isempty (__bridge__.heard))
      text = builtin ("input", "\n[]__stdin_prompt>", "s");
    else
      text = __bridge__.heard;
      __bridge__.heard = "";
    endif
    message = [];
    # Lengths are passed over. So is a line that an interrupt has cut; whoever waited for it is gone too.
    if (text(1) == "{")
      try
        message = __bridge_decode__ (text);
      end_try_catch
    endif
  until (isstruct (message))
endfunction

function __bridge_notify__ (method, params)
  global __bridge__
  if (! __bridge__.ended)
    __bridge_say__ ("\"method\":\"", method, "\",\"params\":", jsonencode (__bridge_plain__ (params)));
    while (isempty (__bridge__.down) && ! strcmp (__bridge_hear__ ().method, "continue"))
    endwhile
  endif
endfunction

function result = __bridge_request__ (method, params)
  global __bridge__
  params = jsonencode (__bridge_plain__ (params));
  if (! __bridge__.ended)
    id = ++__bridge__.sent;
    __bridge_say__ (sprintf ("\"id\":%d,\"method\":\"%s\",\"params\":", id, method), params);
  endif
  while (! __bridge__.ended)
    message = __bridge_hear__ ();
    if (isfield (message, "method"))
      __bridge_serve__ (message);
    elseif (message.id == id)
      break;
    endif
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

# ---- Running author code

# An expression statement sets `ans` if there is a value: no other way calls functions that return one and such that don't.
function value = __bridge_invoke__ (fn, args)
  ans = [];
  fn (args{:});
  value = ans;
endfunction

function problem = __bridge_problem__ (kind, code, message)
  problem = struct ("code", code, "message", message, "data", struct ("kind", kind));
endfunction

function problem = __bridge_raised__ (err)
  global __bridge__
  name = err.identifier;
  if (isempty (name))
    name = "error";
  endif
  problem = __bridge_problem__ ("Raised", -32000, [name ": " err.message]);
  problem.data.ename = name;
  problem.data.evalue = err.message;
  problem.data.traceback = {};
  for frame = err.stack'
    if (strcmp (frame.name, "__bridge_invoke__"))
      break;
    elseif (! strncmp (frame.name, "bridge_", 7) && ! strncmp (frame.name, "__bridge_", 9))
      [~, file, extension] = fileparts (frame.file);
      problem.data.traceback{end+1} = sprintf ("%s at line %d of %s%s", frame.name, frame.line, file, extension);
    endif
  endfor
  if (strncmp (name, "bridge:", 7) && strcmp (err.message, __bridge__.failure.message))
    problem.data.cause = __bridge__.failure;
  endif
endfunction

# ---- One function for each message of the host

function result = __bridge_initialize__ (params)
  global __bridge__
  __bridge__.config = params.config;
  result = struct ("bridge", "1", "language", "octave", "interpreter", ["GNU Octave " version()], "features", {{}});
endfunction

function result = __bridge_load__ (params)
  global __bridge__
  __bridge__.handlers = __bridge__.shutdowns = {};
  __bridge__.exports = struct ();
  if (ischar (params.path))
    addpath (fileparts (params.path));  # Octave looks there for functions with a file of their own
  endif
  for cell = params.cells'
    file = fullfile (__bridge__.folder, cell{1}.name);
    fid = fopen (file, "w");
    fputs (fid, [cell{1}.source "\n"]);
    fclose (fid);
    try
      __parse_file__ (file);
    catch err
      text = strrep (err.message, file, cell{1}.name);
      problem = __bridge_problem__ ("Raised", -32000, text);
      problem.data.ename = "parse error";
      problem.data.evalue = text;
      problem.data.traceback = ostrsplit (text, "\n", true)';
      result = problem;   # TODO
      return;
    end_try_catch
    __bridge_invoke__ (@source, {file, "base"});
  endfor
endfunction
