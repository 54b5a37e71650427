misbehave <- function(what) {
  if (what == "exit") quit("no", 1)
  if (what == "loop") repeat {}
  if (what == "flood") for (i in 1:2000) cat(strrep("x", 1000), "\n")
  if (what == "hog") for (i in 1:40) assign(paste0("hog", i), rep(i + 0.5, 1.5e7))
  if (what == "raise") stop(what)
}

bridge$on("chaos", function(event) {
  note <- function(what) cat(sprintf("%d%s\n", as.integer(event$data$n), what), file = bridge$config$log, append = TRUE)
  note("")
  if (event$attempt == 1 || event$data$always) misbehave(event$data$what)
  note(" done")
  event$data$n
})
