-- The conformance plugin: the same exports and handlers in every language.

--- hello(name) -> a greeting
bridge.export("hello", function(name) return bridge.config.greeting .. ", " .. name .. " from lua" end)

--- identity(x) -> x
bridge.export("identity", function(x) return x end)

bridge.export("fail", function(message) error(message, 0) end)

bridge.export("print_both", function(text)
  print(text)
  io.stderr:write(text, "\n")
end)

bridge.export("call_host", function(name, args) return bridge.call(name, table.unpack(args)) end)

bridge.export("try_call", function(name, args)
  local ok, result = pcall(bridge.call, name, table.unpack(args))
  if ok then return result end
  return { kind = result.kind, message = result.message }
end)

bridge.export("nest", function(n)
  if n <= 0 then return 0 end
  return bridge.call("test.nest", n) + 0
end)

bridge.export("increment", function(key, times)
  local last
  for _ = 1, times do
    last = bridge.state.update(key, function(n) return n + 1 end, 0)
  end
  return last
end)

bridge.export("state_roundtrip", function(key, value)
  bridge.state.set(key, value)
  local got = bridge.state.get(key)
  bridge.state.delete(key)
  return got
end)

bridge.export("emit_one", function(topic, data) bridge.emit(topic, data) end)

bridge.export("log_one", function(level, message) bridge.log[level](message) end)

bridge.export("busy", function(seconds)
  local stop = os.clock() + seconds
  while os.clock() < stop do end
end)

bridge.export("sleep", function(seconds)
  -- Lua cannot sleep; short naps, so that an interrupt is seen between them.
  while seconds > 0 do
    local nap = math.min(seconds, 0.1)
    os.execute("sleep " .. nap)
    seconds = seconds - nap
  end
end)

bridge.export("keyboard", function() return io.read() end)

bridge.export("exit_now", function() os.execute("kill -9 $PPID") end)

bridge.on("conf.echo", function(event)
  local data = event.data
  if data == nil then data = bridge.null end -- a nil field would be no field at all
  return { topic = event.topic, data = data, attempt = event.attempt }
end)

bridge.on("conf.once", function(event)
  bridge.state.update("once", function(n) return n + 1 end, 0, event)
  return bridge.state.update("once", function(n) return n + 1 end, 0, event)
end)

bridge.on("conf.batch", function(events)
  local results = bridge.array()
  for i, event in ipairs(events) do results[i] = event.data.n * 2 end
  return results
end, { batch = 10 })

bridge.on("conf.columns", function(columns, head)
  if columns.fail then error("conf.columns was told to fail") end
  for i, n in ipairs(columns.n) do
    if n ~= bridge.null then columns.n[i] = n * 2 end
  end
  columns.id = head.ids
  return columns
end, { batch = "columns" })

bridge.on("conf.fail", function() error("conf.fail was asked to fail") end)

bridge.filter("conf.filter", function(event)
  if event.data.drop == true then return nil end
  table.insert(event.data.path, "lua")
  return event
end, 10)

bridge.on_shutdown(function() bridge.state.set("shutdown/lua", true) end)
