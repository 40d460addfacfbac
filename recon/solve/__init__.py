"""Solvers: each takes a Measurement or an operator and knows nothing of coils or files."""
