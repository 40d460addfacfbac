"""Networks that see a `Measurement(y, A, sigma)` and nothing of files or coils."""
