misbehave <- function(what) {
  if (what == "exit") quit("no", 1)
  if (what == "loop") repeat {}
  if (what == "flood") for (i in 1:2000) cat(strrep("x", 1000), "\n")
  if (what == "hog") for (i in 1:40) assign(paste0("hog", i), rep(i + 0.5, 1.5e7))
  if (what == "raise") stop(what)
}

bridge$on("chaos", function(event) {
  cat(event$data$n, "\n", sep = "", file = bridge$config$log, append = TRUE)
  if (event$attempt == 1 || event$data$always) misbehave(event$data$what)
  event$data$n
})
