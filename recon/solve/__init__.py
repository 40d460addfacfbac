"""Solvers: each takes a Measurement or an operator; none depends on coils or files."""

from recon.solve import cg, fbp, fista, grappa, pdhg, power, sirt
from recon.solve.cg import Solution

__all__ = ["Solution", "cg", "fbp", "fista", "grappa", "pdhg", "power", "sirt"]
