"""The path of raw MRI scans: calibration, method, image, on the grid and off it."""
