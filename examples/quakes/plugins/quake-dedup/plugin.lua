--- Drops reports of an earthquake of which an earlier report has passed.

local near = bridge.config
local recent = {} -- what passed, the oldest first

--- Good enough where it matters: over a few kilometres.
local function km(a, b)
  local lon_a, lat_a = table.unpack(a.geometry.coordinates)
  local lon_b, lat_b = table.unpack(b.geometry.coordinates)
  local across = (lon_a - lon_b + 180) % 360 - 180
  return 111.195 * math.sqrt((lat_a - lat_b) ^ 2 + (across * math.cos(math.rad(lat_a))) ^ 2)
end

local function seconds(a, b) return math.abs(a.properties.time - b.properties.time) / 1000 end

--- The first rule that applies gives the reason. `ids` is ",ci38100288,us1000abcd,", one for each network.
local rules = {
  { "shares an id", function(a, b)
    for id in (a.properties.ids or ""):gmatch("[^,]+") do
      if (b.properties.ids or ""):find("," .. id .. ",", 1, true) then return true end
    end
  end },
  { "same time and place", function(a, b)
    return seconds(a, b) <= near.seconds and km(a, b) <= near.km
      and math.abs(a.properties.mag - b.properties.mag) <= near.magnitude
  end },
}

bridge.filter("quake.new", function(event)
  while recent[1] and seconds(recent[1], event.data) > 3600 do table.remove(recent, 1) end
  for _, earlier in ipairs(recent) do
    for _, rule in ipairs(rules) do
      if rule[2](event.data, earlier) then
        return bridge.emit("quake.duplicate", { id = event.data.id, of = earlier.id, reason = rule[1] })
      end
    end
  end
  recent[#recent + 1] = event.data
  return event
end, 20)
