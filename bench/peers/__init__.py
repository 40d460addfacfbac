"""One file per peer: functions by the name of a task, (data, settings) → a callable that does it once.

They run in the peers' environment under `bench/harness.py` and know nothing of recon.
"""
