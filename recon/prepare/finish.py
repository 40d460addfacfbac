"""From the solver's image on the encoded grid to the requested image."""

from __future__ import annotations

from torch import Tensor

from recon.data import Encoding
from recon.prepare.readout import resample


def voxel_ratios(encoding: Encoding) -> list[float]:
    """Voxels requested by the header relative to those encoded, along x, y and, for a volume, z."""
    return [
        (encoding.recon_fov[i] / encoding.recon_matrix[i]) / (encoding.encoded_fov[i] / encoding.encoded_matrix[i])
        for i in range(3 if encoding.encoded_matrix[2] > 1 else 2)
    ]


def finer(encoding: Encoding) -> bool:
    """Whether the header requests smaller voxels than were encoded, so that the image is interpolated."""
    return any(r < 0.999 for r in voxel_ratios(encoding))


def finish(x: Tensor, encoding: Encoding, shape: tuple[int, int, int]) -> Tensor:
    """The image (..., z, y, x) on the grid `shape` (nz, ny, nx) of the reconstructed field of view.

    Removes phase and slice oversampling and interpolates to the header's matrix by zero-filling. Voxels lie where
    `geometry.from_centre` says: index N // 2 stays at the position of the slice.
    """
    sizes = x.shape[-3:]
    fov_in = (encoding.encoded_fov[2], encoding.encoded_fov[1], None)
    fov_out = (encoding.recon_fov[2], encoding.recon_fov[1], encoding.recon_fov[0])
    for axis in (-3, -2, -1):
        n_in, n_out = sizes[axis], shape[axis]
        if axis == -3 and n_in == n_out == 1:
            continue
        wide = fov_in[axis]
        spacing = wide / n_in if wide is not None else encoding.encoded_fov[0] / encoding.encoded_matrix[0]
        x = resample(x, axis, spacing, fov_out[axis] / n_out, n_out)
    return x
