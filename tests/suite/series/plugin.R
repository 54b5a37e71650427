# Events that are well, fail at first, never end, and take 20 ms.
bridge$on("n", function(event) event$data)

bridge$on("flaky", function(event) {
  if (event$attempt == 1) stop("the first attempt fails")
  event$data
})

bridge$on("hang", function(event) repeat NULL)

bridge$on("slow", function(event) {
  Sys.sleep(0.02)
  event$data
})
