# What `kernelbridge bench` measures.

work <- function(record) list(id = record$id, text = toupper(record$text), value = record$value + 1)

bridge$export("unary", work)

bridge$export("batch", function(records) lapply(records, work))

bridge$on("bench.one", function(event) work(event$data))

bridge$on("bench.many", batch = 1000, function(events) lapply(events, function(event) work(event$data)))

bridge$on("bench.columns", batch = "columns", function(table) {
  table$text <- toupper(table$text)
  table$value <- table$value + 1
  table
})

bridge$export("table", function(table) {
  table$text <- toupper(table$text)
  table$value <- table$value + 1
  table
})

bridge$export("nested", function(record) {
  answer <- work(record)
  answer$value <- bridge$call("host.plus_one", record$value)
  answer
})

bridge$export("calls", function(count) {
  value <- 0
  for (i in seq_len(count)) value <- bridge$call("host.plus_one", value)
  value
})

bridge$export("nest", function(depth) if (depth > 0) bridge$call("host.nest", depth - 1) + 1 else 0)
