"""Linear operators of MRI and CT on torch tensors."""

from recon.operators.base import Adjoint, Chain, Identity, Linear, Scale, Stack, Sum, chain
from recon.operators.coils import COIL, Coils
from recon.operators.cone import Cone, ConeXray
from recon.operators.derivatives import linear_map
from recon.operators.fourier import Fourier, fft, ifft
from recon.operators.gradient import Gradient
from recon.operators.nufft import Nufft
from recon.operators.sampling import Sample, Weight
from recon.operators.sense import Sense
from recon.operators.toeplitz import Toeplitz
from recon.operators.wavelet import Wavelet
from recon.operators.whiten import Whiten
from recon.operators.xray import Fan, Parallel, Xray

__all__ = [
    "COIL",
    "Adjoint",
    "Chain",
    "Coils",
    "Cone",
    "ConeXray",
    "Fan",
    "Fourier",
    "Gradient",
    "Identity",
    "Linear",
    "Nufft",
    "Parallel",
    "Sample",
    "Scale",
    "Sense",
    "Stack",
    "Sum",
    "Toeplitz",
    "Wavelet",
    "Weight",
    "Whiten",
    "Xray",
    "chain",
    "fft",
    "ifft",
    "linear_map",
]
