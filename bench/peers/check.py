"""Which peers can be imported here, each in its own process: python peers/check.py, from the folder bench."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

HERE = Path(__file__).resolve().parent


def main() -> None:
    """Print a line for each peer."""
    for path in sorted(HERE.glob("*.py")):
        if path.stem in ("__init__", "check", "torchvision_operators"):
            continue
        command = [sys.executable, "-W", "ignore", "-c", f"import peers.{path.stem}"]
        done = subprocess.run(command, cwd=HERE.parent, capture_output=True, text=True)
        print(f"{path.stem:16} {'ready' if done.returncode == 0 else done.stderr.strip().splitlines()[-1]}")


if __name__ == "__main__":
    main()
