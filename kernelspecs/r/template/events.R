# Sample events, one after the other, for the handlers above.
for (line in readLines("events.ndjson")) {
  event <- jsonlite::parse_json(line)
  bridge$emit(event$topic, event$data, event$key)
}
