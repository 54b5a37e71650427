local function misbehave(what)
  if what == "exit" then os.exit(1) end
  while what == "loop" do end
  if what == "flood" then for _ = 1, 20000 do print(("x"):rep(100)) end end
  if what == "hog" then
    local hog = {}
    for i = 1, 4000 do hog[i] = ("x"):rep((1 << 20) + i) end
  end
  if what == "raise" then error(what) end
end

bridge.on("chaos", function(event)
  local log <close> = io.open(bridge.config.log, "a")
  log:write(event.data.n, "\n")
  log:flush()
  if event.attempt == 1 or event.data.always then misbehave(event.data.what) end
  log:write(event.data.n, " done\n")
  return event.data.n
end)
