"""CT along the one path: images that are denoised, projections that are reconstructed."""
