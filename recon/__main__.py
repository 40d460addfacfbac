"""Where `recon` and `python -m recon` begin: an interrupt is heard while the rest is still imported."""

import os
import sys


def main() -> None:
    """Run the command line; one that is interrupted ends with 130 and no traceback, however early or late."""
    try:
        _lead_somewhere()
        from recon.cli import main as verbs

        verbs()
    except KeyboardInterrupt:
        os._exit(130)  # what was half done is undone by now, and half-imported libraries may not bear to be taken apart


def _lead_somewhere() -> None:
    """Let standard streams that are closed lead nowhere: a file that is opened would take the place of one."""
    for number, name in enumerate(("stdin", "stdout", "stderr")):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # takes the lowest number that is free
            setattr(sys, name, open(number, "r" if number == 0 else "w", encoding="utf-8"))  # noqa: SIM115


if __name__ == "__main__":
    main()
