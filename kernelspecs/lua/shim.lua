-- kernelbridge shim for Lua 5.4 under ilua: docs/protocol.md over the `pipe` carrier.
-- Runs once in the kernel's cell environment and leaves one name there, `bridge`. A plugin gets an environment of its
-- own that falls back to that one. Registration only tags; dispatch, JSON and errors are done here.

local byte, find, gsub, match, sub = string.byte, string.find, string.gsub, string.match, string.sub
local directory = assert(os.getenv("KERNELBRIDGE_DIR"), "KERNELBRIDGE_DIR is not set")
local shim_source, package_path, preloaded = debug.getinfo(1, "S").short_src, package.path, {}
for name in pairs(package.loaded) do preloaded[name] = true end

-- What authors catch: `kind`, `message`, `data`. `cause` is the error object as received; the shim's own have none.
local Error = { __name = "bridge.Error", __tostring = function(e) return e.message end }
local codes = { Raised = -32000, Cancelled = -32003, NotFound = -32601, Invalid = -32602 }
local function failure(data, message) return { code = codes[data.kind], message = message, data = data } end
local function raise(kind, message, cause)
  error(setmetatable({ kind = kind, message = message, data = cause and cause.data, cause = cause }, Error), 0)
end

-- `null` stands for null inside tables; a null on its own is nil. The metatable `Array` tells [] from {}.
local null = setmetatable({}, { __name = "null", __tostring = function() return "null" end })
local Array = {}
local function array(t) return setmetatable(t or {}, Array) end
local function either(value, default) if value == nil then return default end return value end
local function absent(value) if value ~= null then return value end end
local function text(s) s = tostring(s) return utf8.len(s) and s or (gsub(s, "[\128-\255]", "?")) end

---- JSON
local escapes = setmetatable({ ['"'] = '\\"', ["\\"] = "\\\\", ["\n"] = "\\n", ["\t"] = "\\t" },
  { __index = function(_, c) return ("\\u%04x"):format(byte(c)) end })
local unescapes = { ['"'] = '"', ["/"] = "/", b = "\b", f = "\f", n = "\n", r = "\r", t = "\t" }
local words = { [116] = true, [102] = false, [110] = null } -- by first letter
local scalars = { boolean = tostring, ["nil"] = function() return "null" end }
function scalars.string(s) return '"' .. (find(s, '[%c"\\]') and gsub(s, '[%c"\\]', escapes) or s) .. '"' end
function scalars.number(value)
  if math.type(value) == "integer" then return ("%d"):format(value) end
  if value - value ~= 0 then return "null" end -- not a number, or infinite
  local s = ("%.15g"):format(value)
  if tonumber(s) ~= value then s = ("%.17g"):format(value) end
  return find(s, "[.e]") and s or s .. ".0"
end
local function list_length(t) -- nil for an object, and an unmarked {} is one
  local length, count = rawlen(t), 0
  if getmetatable(t) == Array then return length end
  for _ in next, t do count = count + 1 end
  return length > 0 and length == count and length or nil
end

local function put(out, value, depth)
  local scalar, n = value == null and tostring or scalars[type(value)], #out + 1
  if scalar then out[n] = scalar(value) return out end
  if type(value) ~= "table" then raise("Invalid", "cannot send a " .. type(value)) end
  if depth > 100 then raise("Invalid", "a value is nested more than 100 deep, or holds itself") end
  local length = list_length(value)
  out[n] = length and "[" or "{"
  for i = 1, length or 0 do
    if i > 1 then out[#out + 1] = "," end
    put(out, rawget(value, i), depth + 1)
  end
  for key, item in next, length and {} or value do
    if type(key) ~= "string" and type(key) ~= "number" then raise("Invalid", "cannot send the key " .. text(key)) end
    out[#out + 1] = (#out > n and "," or "") .. scalars.string(tostring(key)) .. ":"
    put(out, item, depth + 1)
  end
  out[#out + 1] = length and "]" or "}"
  return out
end
local function encode(value, depth)
  local body = table.concat(put({}, value, depth or 0))
  return utf8.len(body) and body or raise("Invalid", "a string is not UTF-8")
end

local function decode_string(s, i) -- `i` is just after the opening quote
  local stop = find(s, '["\\]', i)
  if byte(s, stop) == 34 then return sub(s, i, stop - 1), stop + 1 end
  repeat stop = find(s, '["\\]', byte(s, stop) == 92 and stop + 2 or stop) until byte(s, stop) == 34
  local piece = gsub(sub(s, i, stop - 1), "\\\\", "\\u005c") -- first, so that every backslash left begins an escape
  piece = gsub(piece, "\\([^u])", unescapes)
  piece = gsub(piece, "\\u([dD][89abAB]%x%x)\\u([dD][c-fC-F]%x%x)", function(high, low)
    return utf8.char(0x10000 + ((tonumber(high, 16) & 0x3FF) << 10) + (tonumber(low, 16) & 0x3FF))
  end)
  return gsub(piece, "\\u(%x%x%x%x)", function(unit) return utf8.char(tonumber(unit, 16)) end), stop + 1
end

local function decode(s, i) -- the host writes no space outside strings
  local b = byte(s, i)
  if b == 34 then return decode_string(s, i + 1) end
  if b == 123 or b == 91 then
    local is_object, close, key = b == 123, b + 2, 0 -- in ASCII `}` and `]` come two after `{` and `[`
    local value = is_object and {} or array()
    i = i + 1
    while byte(s, i) ~= close do
      if is_object then key, i = decode_string(s, i + 1) else key, i = key + 1, i - 1 end
      value[key], i = decode(s, i + 1)
      if byte(s, i) == 44 then i = i + 1 end
    end
    return value, i + 1
  end
  if words[b] ~= nil then return words[b], i + (b == 102 and 5 or 4) end
  local _, stop = find(s, "^[-+.%deE]+", i)
  return tonumber(sub(s, i, stop)), stop + 1
end

---- Messages
-- A second SIGINT kills ilua's Lua, so the host creates a file and a count hook looks for it, in author code only.
local in_author, due, cancel_path = false, false, directory .. "/cancel"
local function poll(...)
  due = not in_author
  if in_author and os.remove(cancel_path) then raise("Cancelled", "interrupted by the host") end
  return ...
end
local function hook() debug.sethook(poll, "", 10000) end -- for the running coroutine
local to_host, from_host, serve -- the files are open during a turn only
local ended, last_request, last_own = true, 0, 0
local function send(body) if to_host then to_host:write(#body, "\n", body):flush() end end
local function notify(method, params) send(encode { jsonrpc = "2.0", method = method, params = params }) end
local function receive()
  local length = from_host:read("l")
  local body = length and from_host:read(tonumber(length))
  if body then return (decode(body, 1)) end
  to_host = nil -- the host is gone: one more write would kill Lua by SIGPIPE
  return { method = "end" }
end

local function request(method, params)
  if ended then raise("Cancelled", "no turn is open") end
  local id, was, reply = last_own + 1, in_author, nil
  local body = string.format('{"jsonrpc":"2.0","id":%d,"method":"%s","params":%s}', id, method, encode(params))
  last_own, in_author = id, false
  send(body)
  repeat -- whoever waits, serves
    local message = receive()
    if message.method == "end" then ended = true
    elseif message.method then serve(message)
    elseif message.id == id then reply = message end -- any other is stale
  until reply or ended
  in_author = was
  if due then poll() end
  if not reply then raise("Cancelled", "the turn is over") end
  local problem = reply.error
  if problem then raise(problem.data and problem.data.kind or "Host", problem.message, problem) end
  return absent(reply.result)
end

---- What authors see; the registries are new with every `load`
bridge = { null = null, array = array, config = {}, log = {}, state = {} }
local handlers, functions, shutdowns, sources = array(), {}, {}, {} -- functions by handler id, exports by name

local function register(kind, fn, handler)
  if type(fn) ~= "function" then error("bridge." .. kind .. " needs a function after the name", 3) end
  local info = debug.getinfo(fn, "S")
  local lines, doc, i = sources[info.source] or {}, "", info.linedefined - 1
  while match(lines[i] or "", "^%s*%-%-") do -- the comment above the function is its doc when it starts with `---`
    doc, i = gsub(lines[i], "^%s*%-%-+%s?", "") .. "\n" .. doc, i - 1
  end
  handler.doc = match(lines[i + 1] or "", "^%s*%-%-%-") and sub(doc, 1, -2) or nil
  handler.kind, handler.id = kind, #handlers + 1
  handlers[handler.id], functions[handler.name or handler.id] = handler, fn
  handler.name = handler.name or info.short_src .. ":" .. info.linedefined
end
function bridge.on(topic, fn, options) register("on", fn, { topic = topic, batch = (options or {}).batch or 0 }) end
function bridge.filter(topic, fn, priority) register("filter", fn, { topic = topic, priority = priority or 0 }) end
function bridge.export(name, fn) register("export", fn, { name = name }) end
function bridge.on_shutdown(fn) shutdowns[#shutdowns + 1] = fn end
function bridge.call(name, ...)
  local args = array { ... }
  for i = 1, select("#", ...) do args[i] = either(args[i], null) end
  return request("call", { name = name, args = args })
end
function bridge.emit(topic, data, key) request("emit", { topic = topic, data = either(data, null), key = key }) end
function bridge.progress(done, total, message) notify("progress", { done = done, total = total, message = message }) end
for _, level in ipairs { "debug", "info", "warn", "error" } do
  bridge.log[level] = function(what, fields) notify("log", { level = level, message = text(what), fields = fields }) end
end
function bridge.state.set(key, value) return bridge.call("state.set", key, value) end
function bridge.state.delete(key) return bridge.call("state.delete", key) end
function bridge.state.list(prefix) return bridge.call("state.list", prefix or "") end
function bridge.state.get(key, default) return either(bridge.call("state.get", key), default) end
function bridge.state.update(key, fn, default)
  local old, new
  repeat
    old = bridge.call("state.read", key)
    new = fn(either(absent(old.value), default))
  until bridge.call("state.swap", key, old.version, new).swapped
  return new
end

-- Author code gets `io`, `os` and `coroutine` with a few functions replaced.
local function environment()
  local function layer(base, own) return setmetatable(own, { __index = base }) end
  local function hooked(fn) return function(...) hook() return fn(...) end end
  -- Lua cannot set close-on-exec, and a child that kept the FIFO would hide our death from the host.
  local function clean(command) return command and "exec 3>&- 4>&- 5>&- 6>&- 7>&- 8>&- 9>&-\n" .. command end
  local env = layer(_ENV, { bridge = bridge,
    io = layer(io, { read = function() return bridge.call("host.input", "") end, -- ilua closes the keyboard
      popen = function(command, mode) return io.popen(clean(command), mode) end }),
    os = layer(os, { execute = function(command) return poll(os.execute(clean(command))) end }),
    coroutine = layer(coroutine, { create = function(fn) return coroutine.create(hooked(fn)) end,
      wrap = function(fn) return coroutine.wrap(hooked(fn)) end }) })
  env._G = env
  return env
end

---- What the host asks, a function for each method
local methods = {}
local function handle(params, argument, events)
  for _, event in ipairs(events) do event.data, event.key = absent(event.data), absent(event.key) end
  local fn = functions[params.handler] or raise("NotFound", "no handler " .. tostring(params.handler))
  in_author = true
  return (fn(argument)) -- no tail call: it would show in tracebacks
end
function methods.initialize(params)
  bridge.config = params.config
  return { bridge = "1", language = "lua", interpreter = _VERSION, features = array() }
end
function methods.load(params)
  handlers, functions, shutdowns, sources = array(), {}, {}, {}
  for name in pairs(package.loaded) do if not preloaded[name] then package.loaded[name] = nil end end
  package.path = (match(tostring(params.path), "^.*/") or "./") .. "?.lua;" .. package_path
  local env = environment()
  for _, cell in ipairs(params.cells) do
    local lines, name = {}, "@" .. cell.name
    for line in string.gmatch(cell.source, "([^\n]*)\n?") do lines[#lines + 1] = line end
    sources[name] = lines
    local chunk, problem = load(cell.source, name, "t", env)
    if not chunk then error { name = "SyntaxError", message = problem } end
    in_author = true
    chunk()
  end
  return { handlers = handlers, async = false }
end
function methods.event(params) return handle(params, params, { params }) end
function methods.events(params)
  local outcomes, n = array(), #params.events
  local results = handle(params, params.events, params.events)
  if type(results) ~= "table" or list_length(results) ~= n then results = {} end
  for i = 1, n do outcomes[i] = { result = either(results[i], null) } end
  return { outcomes = outcomes }
end
function methods.filter(params)
  local event = absent(methods.event(params))
  return event and { topic = event.topic, key = either(event.key, null), data = either(event.data, null) }
end
function methods.call(params)
  local fn, args = functions[params.name] or raise("NotFound", "no exported function " .. params.name), params.args
  local n = #args
  for i = 1, n do args[i] = absent(args[i]) end
  in_author = true
  return (fn(table.unpack(args, 1, n)))
end
function methods.shutdown()
  local results = {}
  for i, fn in ipairs(shutdowns) do in_author = true results[i] = { pcall(fn) } end
  for _, result in ipairs(results) do if not result[1] then error(result[2], 0) end end
end

local function on_error(e) -- called where the error was raised, on top of the author's frames
  in_author = false
  local fields = type(e) == "table" and e or {}
  if getmetatable(e) == Error and not e.cause then return failure({ kind = e.kind }, e.message) end
  local ename, message = fields.name or (getmetatable(fields) or {}).__name or "error", text(fields.message or e)
  local traceback = array()
  for line in string.gmatch(debug.traceback(message, 2), "[^\n]+") do
    if find(line, "[C]: in function 'xpcall'", 1, true) then break end
    if not find(line, shim_source, 1, true) then traceback[#traceback + 1] = line end
  end
  local where, evalue = match(message, "^([^:\n]+):%d+: (.*)$")
  if not (where and (sources["@" .. where] or find(where, "%.lua$"))) then evalue = message end
  local data = { kind = "Raised", ename = ename, evalue = evalue, traceback = traceback, cause = fields.cause }
  return failure(data, fields.cause and message or ename .. ": " .. evalue) -- no new name at every hop
end

local function answer(message)
  local method = methods[message.method] or raise("NotFound", "no method " .. message.method)
  local result = method(message.params)
  in_author = false
  return '{"jsonrpc":"2.0","id":' .. message.id .. ',"result":' .. encode(result) .. "}"
end
function serve(message)
  local id = message.id or 0
  if id <= last_request or not message.method then return end -- left over from before an interrupt
  last_request = id
  local ok, body = xpcall(answer, on_error, message)
  in_author = false
  io.stdout:flush()
  if not ok and type(body) ~= "table" then body = failure({ kind = "Raised" }, text(body)) end -- no stack was left
  send(ok and body or encode({ jsonrpc = "2.0", id = id, error = body }, -1000))
end

function bridge._turn()
  os.remove(cancel_path) -- meant for a turn before
  local up <close> = assert(io.open(directory .. "/to-host", "wb"))
  local down <close> = assert(io.open(directory .. "/to-plugin", "rb"))
  local _ <close> = setmetatable({}, { __close = function() debug.sethook() ended, to_host = true, nil end })
  to_host, from_host, ended = up, down, false
  hook()
  notify("ready")
  repeat
    local message = receive()
    if message.method == "end" then ended = true else serve(message) end
  until ended
end
