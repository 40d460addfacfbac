"""Readers and writers, one file per format."""

from recon.starting import submodules

__getattr__ = submodules(__name__)
