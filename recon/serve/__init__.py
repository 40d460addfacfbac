"""The scanner's side door: raw data in over TCP while the scan runs, images back."""
