# `bridge` is there already: nothing to load, nothing to install.

#' greet(name): a greeting for `name`
greet <- function(name) paste0(bridge$config$greeting, ", ", name)
bridge$export("greet", greet)

bridge$on("guest.*", function(event) {
  count <- bridge$state$update("my-plugin/count", function(n) n + 1, 0)
  bridge$emit("my-plugin.greeted", list(text = greet(event$data$name), count = count))
})
