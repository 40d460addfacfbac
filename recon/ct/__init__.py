"""The pipeline for CT: images that are denoised, projections that are reconstructed."""
