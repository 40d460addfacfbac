"""Entry point of `recon` and `python -m recon`: an interrupt is handled even while the rest is being imported."""

import os
import sys


def main() -> None:
    """Run the command line; after an interrupt, however early or late, it exits with 130 and without a traceback."""
    try:
        _lead_somewhere()
        from recon.cli import main as verbs

        verbs()
    except KeyboardInterrupt:
        os._exit(130)  # temporary work is undone by now, and half-imported libraries may fail during a normal exit


def _lead_somewhere() -> None:
    """Open closed standard streams as /dev/null: otherwise the next file opened would take their number."""
    for number, name in enumerate(("stdin", "stdout", "stderr")):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # takes the lowest free number
            setattr(sys, name, open(number, "r" if number == 0 else "w", encoding="utf-8"))  # noqa: SIM115


if __name__ == "__main__":
    main()
