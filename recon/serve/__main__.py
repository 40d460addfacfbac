"""The process of one session, `python -m recon.serve N`: started by the server, with control socket number N."""

from __future__ import annotations

from recon.starting import defer, staying

if __name__ == "__main__":
    with staying():
        defer()
        from recon.serve.worker import main
    main()
