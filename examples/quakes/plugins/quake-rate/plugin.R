# Collects magnitudes; `fit` makes of them the b-value of Gutenberg and Richter's law log10 N(M) = a - b M.

mag <- numeric()
net <- character()

bridge$on("quake.new", batch = 200, function(events) {
  mag <<- c(mag, vapply(events, function(event) as.numeric(event$data$properties$mag), 0))
  net <<- c(net, vapply(events, function(event) event$data$properties$net, ""))
  NULL
})

#' fit() -> b, its standard error, a, magnitude of completeness, and how many earthquakes these are from
#'
#' Maximum likelihood after Aki (1965) with Utsu's correction for bins; the error after Shi and Bolt (1982).
bridge$export("fit", function() {
  networks <- unlist(bridge$config$networks)
  chosen <- if (length(networks)) mag[net %in% networks] else mag
  bin <- floor(10 * chosen + 0.5)                                    # tenths of a magnitude
  if (length(unique(bin)) < 3) stop("too few earthquakes for a fit: ", length(bin))
  counts <- table(factor(bin, levels = min(bin):max(bin)))
  mc <- as.numeric(names(which.max(counts))) / 10 + bridge$config$correction
  complete <- bin[bin >= round(10 * mc)] / 10
  n <- length(complete)
  b <- log10(exp(1)) / (mean(complete) - (mc - 0.05))
  error <- log(10) * b^2 * sqrt(var(complete) / n)
  a <- log10(n) + b * mc
  draw(bin / 10, counts, mc, a, b, error)
  list(b = b, error = error, a = a, mc = mc, n = n, of = length(bin), networks = as.list(networks))
})

draw <- function(mags, counts, mc, a, b, error) {
  at <- as.numeric(names(counts)) / 10
  plot(at, rev(cumsum(rev(counts))), log = "y", ylim = c(0.7, length(mags)), pch = 19, las = 1,
       xlab = "magnitude M", ylab = "earthquakes", main = "How many earthquakes are at least that strong")
  points(at[counts > 0], counts[counts > 0], pch = 1, col = "grey50")
  lines(c(mc, max(at)), 10^(a - b * c(mc, max(at))), col = "firebrick", lwd = 2)
  abline(v = mc, lty = 3)
  legend("topright", bty = "n", legend = c("at least M", "exactly M", sprintf("b = %.2f ± %.2f, complete from %.1f", b, error, mc)),
         pch = c(19, 1, NA), lty = c(NA, NA, 1), col = c("black", "grey50", "firebrick"))
}
