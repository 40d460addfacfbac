"""Kernels on CPU (C++, OpenMP) and CUDA (CuPy), from one arithmetic in shared/*.h; they know nothing of the rest.

Every function here returns None where it cannot serve (nothing compiled, another dtype or device): its caller then
takes the twin written with torch.
"""
