"""Where `recon` and `python -m recon` begin: an interrupt is heard while the rest is still imported."""

import os


def main() -> None:
    """Run the command line; one that is interrupted ends with 130 and no traceback, however early or late."""
    try:
        from recon.cli import main as verbs

        verbs()
    except KeyboardInterrupt:
        os._exit(130)  # what was half done is undone by now, and half-imported libraries may not bear to be taken apart


if __name__ == "__main__":
    main()
