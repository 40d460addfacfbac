"""One file per family of cases: `CASES`, and `ours`, which runs in a process of its own."""
