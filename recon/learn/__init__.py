"""Training: synthetic scans, losses, the training loop."""
