"""The scanner interface: raw data in over TCP while the scan runs, images back."""
