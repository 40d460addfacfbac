"""The data of the pipeline: RawScan, CTImages or CTProjections → Measurement → Image, all frozen dataclasses."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal, Protocol

import numpy as np
from numpy.typing import NDArray

from recon import brief
from recon.errors import DataError as DataError
from recon.errors import MissingPackage as MissingPackage
from recon.errors import ReconError as ReconError
from recon.errors import counted as counted
from recon.geometry import Geometry
from recon.header import Header as Header
from recon.header import Patient as Patient
from recon.header import Sequence as Sequence
from recon.header import Study as Study
from recon.header import System as System
from recon.lines import FRAME_COUNTERS as FRAME_COUNTERS
from recon.lines import LINE as LINE
from recon.lines import NOT_IMAGE as NOT_IMAGE
from recon.lines import Flag as Flag
from recon.lines import flag_bits as flag_bits
from recon.lines import flagged as flagged
from recon.lines import imaging as imaging

if TYPE_CHECKING:
    from torch import Tensor

    from recon.operators.base import Linear


#: Sources that store an array without a header: their grid is the shape of the array.
ARRAYS = ("numpy", "cfl")


class Samples(Protocol):
    """Access to the complex samples behind the lines of a RawScan; reads from the file on request, never writes."""

    def read(self, rows: NDArray[np.intp]) -> NDArray[np.complex64]:
        """Samples of the given lines, (line, coil, sample); all must have the same number of channels and samples."""
        ...

    def trajectory(self, rows: NDArray[np.intp]) -> NDArray[np.float32]:
        """Trajectory of the given lines as stored, (line, sample, dimension); dimension 0 if there is none."""
        ...


@dataclass(frozen=True)
class Limit:
    """Range of a counter: minimum, maximum and the value at the centre of k-space."""

    minimum: int
    maximum: int
    center: int


@dataclass(frozen=True)
class Encoding:
    """One encoding space: `encoded` is the acquired grid with its oversampling, `recon` the requested image.

    Matrices and fields of view (mm) are in the order x, y, z.
    """

    encoded_matrix: tuple[int, int, int]
    encoded_fov: tuple[float, float, float]
    recon_matrix: tuple[int, int, int]
    recon_fov: tuple[float, float, float]
    trajectory: str = "cartesian"
    limits: Mapping[str, Limit] = field(default_factory=dict)
    acceleration: tuple[int, int] = (1, 1)
    calibration_mode: str = ""
    echo_train_length: int | None = None
    trajectory_name: str = ""
    trajectory_parameters: Mapping[str, float] = field(default_factory=dict)
    multiband: int = 1

    @property
    def on_grid(self) -> bool:
        """Whether its lines lie on the grid of the encoded matrix."""
        return self.trajectory in ("cartesian", "epi")


@dataclass(frozen=True, eq=False)
class RawScan:
    """Raw data of one measurement, line by line, in order of acquisition.

    `lines` is an array of LINE; `samples` reads the complex data behind any of its rows. `notes` are sentences on
    irregularities that the reader found and on what it did. `rejected` counts imaging lines that broke a rule and were
    left out. `source` names the format. Sources that store whole arrays (fastMRI, cfl, NumPy) are presented as lines,
    too, so that there is one pipeline.
    """

    lines: NDArray[np.void]
    samples: Samples = field(repr=False)
    encodings: tuple[Encoding, ...]
    header: Header = Header()
    source: str = ""
    notes: tuple[str, ...] = ()
    rejected: int = 0

    def __repr__(self) -> str:
        return brief.scan(self)


class Voxels(Protocol):
    """Access to the voxels behind a CTSeries; reads from the files on request, never writes."""

    def read(self, first: int, last: int) -> NDArray[np.float32]:
        """HU of the slices first … last − 1, (z, y, x)."""
        ...


@dataclass(frozen=True, eq=False)
class CTSeries:
    """One series of CT images in HU as a scanner made it, slices sorted along `geometry`'s slice direction.

    `source` holds the DICOM header of each slice without its pixels, empty for other formats; derived series take
    patient, study and frame of reference from it. `label` distinguishes the series of a scan without patient data.
    `fillings` are the padding values in HU that the files declare.
    """

    voxels: Voxels = field(repr=False)
    geometry: Geometry
    header: Header = Header()
    source: tuple[Any, ...] = field(default=(), repr=False)
    label: str = ""
    notes: tuple[str, ...] = ()
    fillings: tuple[float, ...] = ()


@dataclass(frozen=True, eq=False)
class CTImages:
    """CT images of one file or folder, series by series; `source` names the format."""

    series: tuple[CTSeries, ...]
    source: str = ""
    notes: tuple[str, ...] = ()


@dataclass(frozen=True, eq=False)
class CTProjections:
    """Projections of parallel slices with the same rays for all, or of a volume in a cone beam.

    `values` (slice, view, detector), for a cone (row, view, detector), are line integrals without unit or, by `kind`,
    counts. `air` and `dark` (which broadcast to `values`) are the counts without a body and without a beam. `angles` in
    radians (view,), `beam`, `spacing`, `offset` and the distances in mm are as in `recon.operators.xray`.
    `electronic_noise` is the standard deviation in counts in addition to Poisson noise; `counts_per_unit` is the number
    of photons per unit of counts. `water` is the attenuation of water in 1/mm to which HU refer. `matrix` (y, x) and
    `voxel` in mm are the image that the file requests, 0 if it requests none. `positions` holds z of each slice in LPS
    mm and `thickness` the slice thickness; for a cone they describe the requested slices, empty and 0 if there are
    none. Rows of a cone's detector are `row_spacing` mm apart and shifted by `row_offset` as in `recon.operators.cone`.
    If `values` are computed on request, `sha256` returns the fingerprint of their source.
    """

    values: NDArray[np.float32] = field(repr=False)
    kind: Literal["line integrals", "counts"]
    angles: NDArray[np.float64] = field(repr=False)
    beam: Literal["parallel", "flat", "curved", "cone"]
    spacing: float
    offset: float = 0.0
    source_distance: float = 0.0
    detector_distance: float = 0.0
    row_spacing: float = 0.0
    row_offset: float = 0.0
    air: NDArray[np.float32] | None = field(default=None, repr=False)
    dark: NDArray[np.float32] | None = field(default=None, repr=False)
    electronic_noise: float = 0.0
    counts_per_unit: float = 1.0
    water: float = 0.0
    matrix: tuple[int, int] = (0, 0)
    voxel: float = 0.0
    positions: tuple[float, ...] = (0.0,)
    thickness: float = 1.0
    header: Header = Header()
    source: str = ""
    notes: tuple[str, ...] = ()
    sha256: Callable[[], str] | None = field(default=None, repr=False)


class Views(Protocol):
    """Access to the projections behind a CTViews; reads from the files on request, never writes."""

    def stored(self, first: int, last: int) -> NDArray[np.uint16]:
        """Projections first … last − 1 as stored, (view, row, column)."""
        ...

    def sha256(self) -> str:
        """Fingerprint of all measured values."""
        ...


@dataclass(frozen=True, eq=False)
class CTViews:
    """Projections of a multi-row detector that rotates with its source around the body, on circles or along a helix.

    Positions are the gantry's, seen from the side of the table: x to the right, y up, z into the gantry. In view i the
    detector's focal centre lies at (−ρ sin φ, ρ cos φ, z), φ = `angles`[i] in radians without jumps, z = `positions`[i]
    and ρ = `radius` in mm. The X-rays come from there, displaced by `shifts`[i] = (Δφ, Δz, Δρ). The detector is an arc
    (`curved`) or a plane at `distance` mm from the focal centre. Element (row, column), counted from 0, lies (column −
    centre[1]) · spacing[1] along it, counter-clockwise, and (centre[0] − row) · spacing[0] along z. A line integral is
    stored · `scale`[i, 0] + `scale`[i, 1]. `water` is the attenuation of water in 1/mm to which HU refer, 0 if unknown.
    """

    views: Views = field(repr=False)
    angles: NDArray[np.float64] = field(repr=False)
    positions: NDArray[np.float64] = field(repr=False)
    shifts: NDArray[np.float64] = field(repr=False)
    scale: NDArray[np.float64] = field(repr=False)
    radius: float
    distance: float
    shape: tuple[int, int]
    spacing: tuple[float, float]
    centre: tuple[float, float]
    curved: bool = True
    helical: bool = True
    water: float = 0.0
    header: Header = Header()
    source: str = ""
    notes: tuple[str, ...] = ()


@dataclass(frozen=True, eq=False)
class Measurement:
    """y = A x + n with complex white noise of standard deviation `sigma` per real and imaginary part.

    All that a solver or a network knows: `y` is what was measured, `A` the operator that predicts it. Raises DataError
    if `y` is a NumPy array.
    """

    y: Tensor
    A: Linear
    sigma: float = 1.0

    def __post_init__(self) -> None:
        if isinstance(self.y, np.ndarray):
            raise DataError("y is a NumPy array; torch.from_numpy(y) makes it a tensor without a copy")

    def __repr__(self) -> str:
        return brief.measurement(self)


@dataclass(frozen=True, eq=False)
class Image:
    """A reconstructed volume or series of volumes.

    `data` is complex64 or float32 with axes (*axes, z, y, x). `axes` names the leading ones, in the order of
    FRAME_COUNTERS, and lists only those with more than one entry. `units` is "arbitrary" for MR intensities or "HU".
    `provenance` holds the recipe and its hash, versions, method and seeds; `trust` the numbers on how far the image can
    be trusted; `notes` sentences for its reader. `uncertainty` is the standard deviation of the magnitude, with the
    same shape, if requested. `source` are the DICOM headers of the slices, if the image was derived from images. NumPy
    and matplotlib use it as its `data`.
    """

    data: NDArray[Any]
    geometry: Geometry
    axes: tuple[str, ...] = ()
    units: Literal["arbitrary", "HU"] = "arbitrary"
    header: Header = Header()
    provenance: Mapping[str, Any] = field(default_factory=dict)
    trust: Mapping[str, Any] = field(default_factory=dict)
    notes: tuple[str, ...] = ()
    uncertainty: NDArray[Any] | None = None
    source: tuple[Any, ...] = field(default=(), repr=False)

    def __repr__(self) -> str:
        return brief.image(self)

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> NDArray[Any]:
        if copy is False and dtype is not None and np.dtype(dtype) != self.data.dtype:
            raise ValueError(f"{self.data.dtype} becomes {np.dtype(dtype)} only by a copy; leave copy=False out")
        found = np.asarray(self.data, dtype)
        return found.copy() if copy else found
