"""Networks that see a `Measurement(y, A, sigma)`; none depends on files or coils."""

from recon.starting import submodules

__getattr__ = submodules(__name__)
