"""What a server does before it listens: little, so that a scanner that has just been started finds it."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

#: Packages that take long to import; each is loaded by a worker, or by what needs it, when the server listens already.
HEAVY = {"torch", "scipy", "h5py", "ismrmrd", "pydicom", "pynetdicom", "nibabel", "cryptography", "sigpy", "matplotlib"}

_CODE = """
import json, os, runpy, sys
from recon.serve import server
listen = server.listen
def spy(site):
    sock = listen(site)
    print(json.dumps([sock.getsockname()[1], sorted({m.partition(".")[0] for m in sys.modules})]), flush=True)
    os._exit(0)
server.listen = spy
sys.argv = ["recon", "serve", "--config", sys.argv[1]]
runpy.run_module("recon", run_name="__main__")
"""


def test_nothing_slow_is_imported_before_the_server_listens(tmp_path: Path) -> None:
    site = tmp_path / "site.toml"
    site.write_text('port = 0\nstatus_port = 0\naudit = "a.jsonl"\n[pacs]\nto = "A@127.0.0.1:104"\nspool = "spool"\n')
    done = subprocess.run([sys.executable, "-c", _CODE, str(site)], capture_output=True, text=True, check=False)
    port, loaded = json.loads(done.stdout)
    assert port > 0, done.stderr
    assert "numpy" in loaded
    assert HEAVY & set(loaded) == set()
