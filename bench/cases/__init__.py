"""One file per family of cases: `CASES`, and `ours`, recon's functions, which run in a separate process."""
