-- kernelbridge shim for Lua 5.4 under ilua: docs/protocol.md over the `pipe` carrier.
-- Runs once in the kernel's cell environment and leaves one name there, `bridge`. A plugin gets an environment of its
-- own that falls back to that one. Registration only tags; dispatch, JSON and errors are done here.

local byte, find, format, gmatch = string.byte, string.find, string.format, string.gmatch
local gsub, match, sub = string.gsub, string.match, string.sub
local directory = assert(os.getenv("KERNELBRIDGE_DIR"), "KERNELBRIDGE_DIR is not set")
local shim_source, package_path, preloaded = debug.getinfo(1, "S").short_src, package.path, {}
for name in pairs(package.loaded) do preloaded[name] = true end
local uptime = io.open("/proc/uptime") -- Lua's own clock stands still while it waits; without this there are no series
if uptime then uptime:setvbuf("no") end

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

---- JSON, with few calls into Lua's library, because those are what costs
local escapes = setmetatable({ ['"'] = '\\"', ["\\"] = "\\\\", ["\n"] = "\\n", ["\t"] = "\\t" },
  { __index = function(_, c) return format("\\u%04x", byte(c)) end })
local scalars = { boolean = tostring, ["nil"] = function() return "null" end }
function scalars.string(s) -- what Lua quotes without an escape is JSON
  local quoted = format("%q", s)
  return #quoted == #s + 2 and quoted or '"' .. gsub(s, '[%c"\\]', escapes) .. '"'
end
function scalars.number(value)
  if math.type(value) == "integer" then return value end
  if value - value ~= 0 then return "null" end -- not a number, or infinite
  local s = format("%.15g", value)
  if tonumber(s) ~= value then s = format("%.17g", value) end
  return (value // 1 ~= value or find(s, "e", 1, true)) and s or s .. ".0"
end
local function list_length(t) -- nil for an object, and an unmarked {} is one
  local length, count = rawlen(t), 0
  if getmetatable(t) == Array then return length end
  if length > 0 then for _ in next, t do count = count + 1 end end
  return length > 0 and length == count and length or nil
end
local function up_to(length, i) if i < length then return i + 1 end end
local names, name_count = {}, 0 -- `,"key":` by key
local function name_of(key)
  if type(key) ~= "string" and type(key) ~= "number" then raise("Invalid", "cannot send the key " .. text(key)) end
  local name = "," .. scalars.string(tostring(key)) .. ":"
  if name_count == 1000 then names, name_count = {}, 0 end
  if #name < 40 then names[key], name_count = name, name_count + 1 end
  return name
end

local function put(out, n, value, depth) -- what makes up a value, from out[n] on; returns the place after it
  local kind = type(value)
  if kind ~= "table" or value == null then
    out[n] = value == null and "null" or (scalars[kind] or raise("Invalid", "cannot send a " .. kind))(value)
    return n + 1
  end
  if depth > 100 then raise("Invalid", "a value is nested more than 100 deep, or holds itself") end
  local length, first = list_length(value), n
  for key, item in length and up_to or next, length or value, length and 0 do
    if length then item = rawget(value, key) end
    out[n] = length and "," or names[key] or name_of(key)
    local scalar = scalars[type(item)]
    if scalar then out[n + 1] = scalar(item) n = n + 2
    else n = put(out, n + 1, item, depth + 1) end
  end
  if n == first then out[n] = length and "[]" or "{}" return n + 1 end
  out[first], out[n] = (length and "[" or "{") .. sub(out[first], 2), length and "]" or "}"
  return n + 1
end
local spare -- a table that has grown already
local function encode(value, depth)
  local out = spare or {}
  spare = nil
  local body = table.concat(out, "", 1, put(out, 1, value, depth or 0) - 1)
  if #body < 65536 then spare = out end
  return utf8.len(body) and body or raise("Invalid", "a string is not UTF-8")
end

local short = { ["\\/"] = "/", ["\\b"] = "\b", ["\\f"] = "\f", ["\\n"] = "\n", ["\\r"] = "\r", ["\\t"] = "\t",
  ['\\"'] = "\\u0022", ["\\\\"] = "\\u005c" } -- so that a quote left ends a string, and a backslash begins a \u
local units = setmetatable({ ["0022"] = '"', ["005c"] = "\\" },
  { __index = function(_, unit) return utf8.char(tonumber(unit, 16)) end })
local function pair(high, low)
  return utf8.char(0x10000 + ((tonumber(high, 16) & 0x3FF) << 10) + (tonumber(low, 16) & 0x3FF))
end
local words = { ["true"] = true, ["false"] = false, null = null }

local function decode(s) -- an object without space outside strings, which is what the host writes
  local escaped, outer, counts, depth = find(s, "\\", 1, true), {}, {}, 0
  local value, n, key -- the innermost table, how many items it has if it is a list, where its next one goes if not
  if escaped then s = gsub(s, "\\.", short) end
  for between, str in gmatch(s, '([^"]*)"?([^"]*)"?') do -- each string, and what is before it
    if escaped and find(str, "\\", 1, true) then
      str = gsub(str, "\\u([dD][89abAB]%x%x)\\u([dD][c-fC-F]%x%x)", pair)
      str = gsub(str, "\\u(%x%x%x%x)", units)
    end
    if between == ":" then value[key] = str goto continue end
    if between ~= "," then
      local i, size, b, item = 1, #between, nil, not n and byte(between, -1) == 44 and sub(between, 2, -2)
      if item then item = tonumber(item) or words[item] end -- `:0.5,` is what it is most often
      if item then value[key], i = item, size + 1 end
      while i <= size do
        b, i, item = byte(between, i), i + 1, nil
        if b == 123 then item = {} -- {
        elseif b == 91 then item = array() -- [
        elseif b == 125 or b == 93 then -- } ]
          depth = depth - 1
          if depth == 0 then return value end
          value, n = outer[depth], counts[depth]
        elseif b ~= 44 and b ~= 58 then -- , :
          item, i = match(between, "^([^][{},]+)()", i - 1)
          item = tonumber(item) or words[item]
        end
        if item == nil then -- a mark
        elseif n then n = n + 1 value[n] = item
        elseif value then value[key] = item end
        if b == 123 or b == 91 then
          outer[depth], counts[depth], depth = value, n, depth + 1
          value, n = item, b == 91 and 0 or nil
        end
      end
    end
    if n then n = n + 1 value[n] = str else key = str end
    ::continue::
  end
end

---- Messages
-- A second SIGINT kills ilua's Lua, so the host creates a file and a count hook looks for it, in author code only.
local in_author, cancel_path = false, directory .. "/cancel"
local function poll(...)
  if in_author and os.remove(cancel_path) then raise("Cancelled", "interrupted by the host") end
  return ...
end
local function author(runs) -- the hook, which is the running coroutine's, makes every instruction dearer
  in_author = runs
  debug.sethook(runs and poll or nil, "", 10000)
end
local here, move -- the plugin whose modules are in place, and how that is changed
local to_host, from_host, serve -- the files are open during a turn only
local ended, last_request, last_own = true, 0, 0
local function send(body) if to_host then to_host:write(#body, "\n", body):flush() end end
local function notify(method, params)
  send(format('{"jsonrpc":"2.0","method":"%s","params":%s}', method, encode(params)))
end
local function receive()
  local length = from_host:read("l")
  local body = length and from_host:read(tonumber(length))
  if body then return decode(body) end
  to_host = nil -- the host is gone: one more write would kill Lua by SIGPIPE
  return { method = "end" }
end

local function request(method, params)
  if ended then raise("Cancelled", "no turn is open") end
  local id, was, space, reply = last_own + 1, in_author, here, nil
  local body = format('{"jsonrpc":"2.0","id":%d,"method":"%s","params":%s}', id, method, encode(params))
  last_own = id
  author(false)
  send(body)
  repeat -- whoever waits, serves
    local message = receive()
    if message.method == "end" then ended = true
    elseif message.method then serve(message)
    elseif message.id == id then reply = message end -- any other is stale
  until reply or ended
  move(space) -- another plugin may have been served
  author(was)
  poll() -- whoever only calls is never here for 10,000 instructions
  if not reply then raise("Cancelled", "the turn is over") end
  local problem = reply.error
  if problem then raise(problem.data and problem.data.kind or "Host", problem.message, problem) end
  return absent(reply.result)
end

---- What authors see: a `bridge` for each plugin. There is one in space 0, or several share the kernel.
local spaces, functions, homes, last_handler = {}, {}, {}, 0 -- functions and their spaces by handler id
local function new_space(id) -- `sources` by chunk name, for comments and errors; `modules` that it required
  return { id = id, handlers = array(), exports = {}, shutdowns = {}, sources = {}, modules = {} }
end

local function register(space, kind, fn, handler)
  if type(fn) ~= "function" then error("bridge." .. kind .. " needs a function after the name", 3) end
  local info = debug.getinfo(fn, "S")
  local lines, doc, i = space.sources[info.source] or {}, "", info.linedefined - 1
  while match(lines[i] or "", "^%s*%-%-") do -- the comment above the function is its doc when it starts with `---`
    doc, i = gsub(lines[i], "^%s*%-%-+%s?", "") .. "\n" .. doc, i - 1
  end
  handler.doc = match(lines[i + 1] or "", "^%s*%-%-%-") and sub(doc, 1, -2) or nil
  last_handler = last_handler + 1
  handler.kind, handler.id = kind, last_handler
  space.handlers[#space.handlers + 1] = handler
  if kind == "export" then space.exports[handler.name] = fn
  else functions[handler.id], homes[handler.id] = fn, space end
  handler.name = handler.name or info.short_src .. ":" .. info.linedefined
end
local function new_bridge(space)
  local bridge = { null = null, array = array, config = {}, log = {}, state = {} }
  function bridge.on(topic, fn, options) -- batch: a number for lists of events, or "columns"
    local batch = (options or {}).batch or 0
    local columns = batch == "columns" or (options or {}).columns
    register(space, "on", fn, { topic = topic, batch = tonumber(batch) or 0, columns = columns and "columns" or nil })
  end
  function bridge.filter(topic, fn, priority) register(space, "filter", fn, { topic = topic, priority = priority or 0 }) end
  function bridge.export(name, fn) register(space, "export", fn, { name = name }) end
  function bridge.on_shutdown(fn) space.shutdowns[#space.shutdowns + 1] = fn end
  function bridge.call(name, ...)
    local args = array { ... }
    for i = 1, select("#", ...) do args[i] = either(args[i], null) end
    return request("call", { name = name, args = args })
  end
  function bridge.emit(topic, data, key) request("emit", { topic = topic, data = either(data, null), key = key }) end
  function bridge.progress(done, total, message)
    notify("progress", { done = done, total = total, message = message, space = space.id })
  end
  for _, level in ipairs { "debug", "info", "warn", "error" } do
    bridge.log[level] = function(what, fields)
      notify("log", { level = level, message = text(what), fields = fields, space = space.id })
    end
  end
  function bridge.state.set(key, value) return bridge.call("state.set", key, value) end
  function bridge.state.delete(key) return bridge.call("state.delete", key) end
  function bridge.state.list(prefix) return bridge.call("state.list", prefix or "") end
  function bridge.state.get(key, default) return either(bridge.call("state.get", key), default) end
  function bridge.state.update(key, fn, default, once) -- once: for this event, however often it is delivered
    local old, new, swap
    repeat
      old = bridge.call("state.read", key)
      new = fn(either(absent(old.value), default))
      if once then swap = bridge.call("state.once", once.id, key, old.version, new)
      else swap = bridge.call("state.swap", key, old.version, new) end
    until swap.swapped or swap.done
    if swap.swapped then return new end
    return absent(old.value)
  end
  space.bridge = bridge
  return bridge
end
spaces[0] = new_space()
bridge = new_bridge(spaces[0])

-- Author code gets `io`, `os` and `coroutine` with a few functions replaced.
local function environment(space)
  local bridge, folder = space.bridge, space.folder
  local function layer(base, own) return setmetatable(own, { __index = base }) end
  local function hooked(fn) return function(...) author(in_author) return fn(...) end end
  -- Lua cannot set close-on-exec, and a child that kept the FIFO would hide our death from the host.
  local function clean(command) return command and "exec 3>&- 4>&- 5>&- 6>&- 7>&- 8>&- 9>&-\n" .. command end
  -- Lua cannot change its folder; in a shared kernel, which has none of the plugin's, files are looked for in the plugin's.
  local function at(fn)
    return folder and function(name, ...)
      if type(name) == "string" and sub(name, 1, 1) ~= "/" then name = folder .. "/" .. name end
      return fn(name, ...)
    end or fn
  end
  local env = layer(_ENV, { bridge = bridge, dofile = at(dofile), loadfile = at(loadfile),
    io = layer(io, { open = at(io.open), lines = at(io.lines),
      read = function() return bridge.call("host.input", "") end, -- ilua closes the keyboard
      popen = function(command, mode) return io.popen(clean(command), mode) end }),
    os = layer(os, { execute = function(command) return poll(os.execute(clean(command))) end }),
    coroutine = layer(coroutine, { create = function(fn) return coroutine.create(hooked(fn)) end,
      wrap = function(fn) return coroutine.wrap(hooked(fn)) end }) })
  env._G = env
  return env
end

---- What the host asks, a function for each method
local methods = {}
local function plain(event)
  event.data, event.key = absent(event.data), absent(event.key)
  return event
end
local function handle(params, argument)
  local fn = functions[params.handler] or raise("NotFound", "no handler " .. tostring(params.handler))
  move(homes[params.handler])
  author(true)
  return (fn(argument)) -- no tail call: it would show in tracebacks
end
function move(space) -- each plugin requires what lies beside it, whatever others call theirs
  if not space or space == here then return end
  if here then here.modules = {} end
  for name, module in pairs(package.loaded) do
    if not preloaded[name] then
      if here then here.modules[name] = module end
      package.loaded[name] = nil
    end
  end
  for name, module in pairs(space.modules) do package.loaded[name] = module end
  here, package.path = space, space.path or package_path
end
function methods.initialize(params)
  local features, id = array { "batch", "columns", "shared", uptime and "series" }, params.space
  if id then spaces[id] = new_space(id) new_bridge(spaces[id]) end
  local space = spaces[id or 0]
  space.folder, space.name, space.bridge.config = params.folder, id and params.plugin.name, params.config
  return { bridge = "1", language = "lua", interpreter = _VERSION, features = features }
end
function methods.load(params)
  local space = spaces[params.space or 0]
  space.handlers, space.exports, space.shutdowns, space.sources, space.modules = array(), {}, {}, {}, {}
  space.path = (match(tostring(params.path), "^.*/") or "./") .. "?.lua;" .. package_path
  if here == space then here = nil end
  move(space)
  local env, sources = environment(space), space.sources
  for _, cell in ipairs(params.cells) do
    local lines, name = {}, "@" .. (space.name and space.name .. "/" or "") .. cell.name
    for line in string.gmatch(cell.source, "([^\n]*)\n?") do lines[#lines + 1] = line end
    sources[name] = lines
    local chunk, problem = load(cell.source, name, "t", env)
    if not chunk then error { name = "SyntaxError", message = problem } end
    author(true)
    chunk()
  end
  return { handlers = space.handlers, async = false }
end
function methods.event(params) return (handle(params, plain(params))) end
function methods.events(params)
  local outcomes, n = array(), #params.events
  for _, event in ipairs(params.events) do plain(event) end
  local results = handle(params, params.events)
  if type(results) ~= "table" or list_length(results) ~= n then results = {} end
  for i = 1, n do outcomes[i] = { result = either(results[i], null) } end
  return { outcomes = outcomes }
end
local function head_of(params) -- what the events of a batch have beside their data
  local head = { count = params.count }
  for _, name in ipairs { "ids", "topics", "times", "attempts", "keys" } do
    local items = array()
    for _, run in ipairs(params[name]) do
      local counted = name == "ids" and run[2]
      for i = 1, counted and run[3] or name ~= "ids" and run[2] or 1 do
        items[#items + 1] = counted and run[1] .. format("%d", run[2] + i - 1) or run[1]
      end
    end
    head[name] = items
  end
  return head
end
function methods.columns(params)
  local fn, n = functions[params.handler] or raise("NotFound", "no handler " .. tostring(params.handler)), params.count
  move(homes[params.handler])
  local takes = debug.getinfo(fn, "u")
  local head = (takes.nparams > 1 or takes.isvararg) and head_of(params) or nil
  author(true)
  local results = fn(params.columns, head)
  author(false)
  if type(results) ~= "table" then return { done = n } end
  if list_length(results) == n then return { results = array(results) } end
  local fits = next(results) ~= nil
  for _, column in pairs(results) do fits = fits and type(column) == "table" and rawlen(column) == n end
  if not fits then return { done = n } end
  for name, column in pairs(results) do results[name] = getmetatable(column) == Array and column or array(column) end
  return { columns = results }
end
function methods.filter(params)
  local event = absent(methods.event(params))
  return event and { topic = event.topic, key = either(event.key, null), data = either(event.data, null) }
end
function methods.call(params)
  local space, args = spaces[params.space or 0] or raise("NotFound", "no space " .. params.space), params.args
  local fn, n = space.exports[params.name] or raise("NotFound", "no exported function " .. params.name), #args
  move(space)
  for i = 1, n do args[i] = absent(args[i]) end
  author(true)
  return (fn(table.unpack(args, 1, n)))
end
function methods.shutdown(params)
  local results, space = {}, spaces[params.space or 0]
  if not space then return end
  move(space)
  for i, fn in ipairs(space.shutdowns) do author(true) results[i] = { pcall(fn) } end
  author(false)
  if space.id then -- the kernel goes on without it
    for _, handler in ipairs(space.handlers) do functions[handler.id], homes[handler.id] = nil, nil end
    spaces[space.id] = nil
  end
  for _, result in ipairs(results) do if not result[1] then error(result[2], 0) end end
end

local function on_error(e) -- called where the error was raised, on top of the author's frames
  author(false)
  local fields = type(e) == "table" and e or {}
  if getmetatable(e) == Error and not e.cause then return failure({ kind = e.kind }, e.message) end
  local ename, message = fields.name or (getmetatable(fields) or {}).__name or "error", text(fields.message or e)
  local traceback = array()
  for line in string.gmatch(debug.traceback(message, 2), "[^\n]+") do
    if find(line, "[C]: in function 'xpcall'", 1, true) then break end
    if not find(line, shim_source, 1, true) then traceback[#traceback + 1] = line end
  end
  local where, evalue = match(message, "^([^:\n]+):%d+: (.*)$")
  if not (where and (here and here.sources["@" .. where] or find(where, "%.lua$"))) then evalue = message end
  local data = { kind = "Raised", ename = ename, evalue = evalue, traceback = traceback, cause = fields.cause }
  return failure(data, fields.cause and message or ename .. ": " .. evalue) -- no new name at every hop
end

local function outcome(method, params)
  local result = (methods[method] or raise("NotFound", "no method " .. method))(params)
  author(false)
  return encode(result)
end
local function attempt(method, params) -- the end of a response, and whether it is one of success
  local ok, body = xpcall(outcome, on_error, method, params)
  author(false)
  if ok then return '"result":' .. body, true end
  if type(body) ~= "table" then body = failure({ kind = "Raised" }, text(body)) end -- no stack was left
  return '"error":' .. encode(body, -1000), false
end
local function clocks() -- in ms: what Lua has used, and what went by, in steps of 10
  uptime:seek("set")
  return os.clock() * 1000, tonumber(match(uptime:read(12), "^[%d.]+")) * 1000
end
local function series(params) -- of events, until one fails or time is up
  local bodies, began, first = {}, clocks()
  local used, past, ok = began, first, true
  for i, event in ipairs(params.events) do
    if not ok or ended or math.max(used - began, past - first) > params.within_ms then break end
    local used_before, past_before, body = used, past, nil
    body, ok = attempt("event", event)
    used, past = clocks()
    local waited = past - past_before -- one step may be chance
    bodies[i] = format('{%s,"ms":%.3f}', body, waited > 15 and waited or used - used_before)
  end
  return '"result":{"outcomes":[' .. table.concat(bodies, ",") .. "]}"
end
function serve(message, last)
  local id, method, body = message.id or 0, message.method, nil
  if id <= (last or last_request) or not method then return end -- left over from before an interrupt
  last_request = math.max(last_request, id)
  if method == "series" then body = series(message.params) else body = attempt(method, message.params) end
  io.stdout:flush()
  send(format('{"jsonrpc":"2.0","id":%d,%s}', id, body))
end

function bridge._turn()
  os.remove(cancel_path) -- meant for a turn before
  local up <close> = assert(io.open(directory .. "/to-host", "wb"))
  local down <close> = assert(io.open(directory .. "/to-plugin", "rb"))
  local _ <close> = setmetatable({}, { __close = function() author(false) ended, to_host = true, nil end })
  to_host, from_host, ended = up, down, false
  send('{"jsonrpc":"2.0","method":"ready"}')
  repeat
    local message = receive()
    if message.method == "end" then ended = true
    elseif message.method then serve(message)
    else -- requests that came together; what comes back to us from one of them has a greater id than the next
      local last = last_request
      for i = 1, #message do if not ended then serve(message[i], last) end end
    end
  until ended
end
