-- What `kernelbridge bench` measures.

local function work(record)
  return { id = record.id, text = record.text:upper(), value = record.value + 1 }
end

bridge.export("unary", work)

bridge.export("batch", function(records)
  local answers = bridge.array()
  for index, record in ipairs(records) do
    answers[index] = work(record)
  end
  return answers
end)

bridge.on("bench.one", function(event)
  return work(event.data)
end)

bridge.on("bench.many", function(events)
  local answers = bridge.array()
  for index, event in ipairs(events) do
    answers[index] = work(event.data)
  end
  return answers
end, { batch = 1000 })

local function each(list, change)
  local changed = bridge.array()
  for index, item in ipairs(list) do
    changed[index] = change(item)
  end
  return changed
end

bridge.on("bench.columns", function(columns)
  local function plus_one(value)
    return value + 1
  end
  return { id = columns.id, text = each(columns.text, string.upper), value = each(columns.value, plus_one) }
end, { batch = "columns" })

bridge.export("nested", function(record)
  local answer = work(record)
  answer.value = bridge.call("host.plus_one", record.value)
  return answer
end)

bridge.export("calls", function(count)
  local value = 0
  for _ = 1, count do
    value = bridge.call("host.plus_one", value)
  end
  return value
end)

bridge.export("nest", function(depth)
  return depth > 0 and bridge.call("host.nest", depth - 1) + 1 or 0
end)
