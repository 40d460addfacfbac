"""Kernels on CPU (C++, OpenMP) and CUDA (CuPy), with common arithmetic in shared/*.h; independent of recon.

Every function returns None if it does not apply (nothing compiled, another dtype or device); its caller then uses the
implementation in torch.
"""
