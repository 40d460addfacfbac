"""Linear operators of MRI and CT on torch tensors."""

from recon.operators.base import Adjoint, Chain, Identity, Linear, LinearMap, Scale, Stack, Sum, chain
from recon.operators.coils import COIL, Coils
from recon.operators.fourier import Fourier, fft, ifft
from recon.operators.sampling import Sample, Weight
from recon.operators.xray import Fan, Parallel, Xray

__all__ = [
    "COIL",
    "Adjoint",
    "Chain",
    "Coils",
    "Fan",
    "Fourier",
    "Identity",
    "Linear",
    "LinearMap",
    "Parallel",
    "Sample",
    "Scale",
    "Stack",
    "Sum",
    "Weight",
    "Xray",
    "chain",
    "fft",
    "ifft",
]
