bridge.on("n", function(event) return event.data end)

bridge.on("flaky", function(event)
  if event.attempt == 1 then error("the first attempt fails") end
  return event.data
end)

bridge.on("hang", function() while true do end end)

bridge.on("slow", function(event)
  os.execute("sleep 0.02")
  return event.data
end)
