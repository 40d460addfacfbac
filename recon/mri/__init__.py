"""The pipeline for raw MRI scans: calibration, choice of a method, image, Cartesian and non-Cartesian."""
