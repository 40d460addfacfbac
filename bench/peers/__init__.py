"""One file per peer: functions named after tasks, (data, settings) → a callable that does the work once.

They run in the peers' environment under `bench/harness.py` and do not use recon.
"""
