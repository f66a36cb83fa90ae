set.seed(11)
data <- data.frame(x = rnorm(20000), g = sample(letters, 20000, TRUE))
for (n in 1:60) {
  data$y <- data$x * n + rnorm(20000)
  fit <- lm(y ~ x + g, data)
  cat("step", n, format(coef(fit)[["x"]], digits = 8), "\n")
  saveRDS(data$y[1:100], "state.rds", compress = FALSE)
  Sys.sleep(0.15)
}
