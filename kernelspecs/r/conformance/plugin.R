# The conformance plugin: what tests/conformance.rs asks of every language.

#' hello(name) -> "<greeting>, <name> from r"
bridge$export("hello", function(name) paste0(bridge$config$greeting, ", ", name, " from r"))

bridge$export("identity", function(x) x)

bridge$export("sum", function(x) sum(x))

bridge$export("fail", function(message) {
  stop(message)
})

bridge$export("print_both", function(text) {
  cat(text, "\n", sep = "")
  message(text)
})

bridge$export("plot", function() {
  plot(c(1, 4, 9), main = "conformance")
  NULL
})

bridge$export("call_host", function(name, args) do.call(bridge$call, c(list(name), args)))

bridge$export("try_call", function(name, args) {
  tryCatch(
    do.call(bridge$call, c(list(name), args)),
    bridge_error = function(e) list(kind = e$kind, message = conditionMessage(e)))
})

bridge$export("nest", function(n) if (n <= 0) 0 else bridge$call("test.nest", n) + 0)

bridge$export("increment", function(key, times) {
  for (i in seq_len(times)) value <- bridge$state$update(key, function(n) n + 1, default = 0)
  value
})

bridge$export("state_roundtrip", function(key, value) {
  bridge$state$set(key, value)
  value <- bridge$state$get(key)
  bridge$state$delete(key)
  value
})

bridge$export("emit_one", function(topic, data) bridge$emit(topic, data))

bridge$export("log_one", function(level, message) bridge$log[[level]](message))

bridge$export("busy", function(seconds) {
  end <- proc.time()[["elapsed"]] + seconds
  while (proc.time()[["elapsed"]] < end) NULL
})

bridge$export("sleep", function(seconds) Sys.sleep(seconds))

bridge$export("keyboard", function() readline("your name? "))

bridge$export("exit_now", function() tools::pskill(Sys.getpid(), tools::SIGKILL))

bridge$on("conf.echo", function(event) event[c("topic", "data", "attempt")])

bridge$on("conf.batch", batch = 10, function(events) lapply(events, function(event) event$data$n * 2))
bridge$on("conf.columns", batch = "columns", function(frame, head) {
  if (!is.null(frame[["fail"]])) stop("conf.columns was told to fail")
  frame$n <- frame$n * 2
  frame$id <- head$ids
  frame
})
bridge$on("conf.once", function(event) {
  bridge$state$update("once", function(n) n + 1, 0, event)
  bridge$state$update("once", function(n) n + 1, 0, event)
})

bridge$on("conf.fail", function(event) stop("conf.fail always fails"))

bridge$filter("conf.filter", priority = 10, function(event) {
  if (isTRUE(event$data$drop)) return(NULL)
  event$data$path <- c(event$data$path, "r")
  event
})

bridge$on_shutdown(function() bridge$state$set("shutdown/r", TRUE))
