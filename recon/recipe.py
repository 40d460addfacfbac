"""A recipe is everything that determines an image; it is read from TOML, prints as TOML, and has a hash."""

from __future__ import annotations

import difflib
import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields, is_dataclass, replace
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar, overload

from annotated_types import Ge, Le

from recon.errors import ReconError

T = TypeVar("T")
Method = Literal["auto", "combine", "grappa", "sense", "cs", "tv", "unrolled", "varnet", "fbp", "sirt", "cgls"]
#: Methods that reconstruct CT projections; for images of CT there are "tv" and "unrolled".
CT_ALONE: tuple[Method, ...] = ("fbp", "sirt", "cgls")
Weight = Annotated[float, Ge(0), Le(1e9)]
Fraction = Annotated[float, Ge(0), Le(1)]
Count = Annotated[int, Ge(1), Le(10_000)]


@dataclass(frozen=True)
class Prepare:
    """How raw lines become a measurement."""

    #: "auto" whitens with the noise scan; if there is none, it estimates the noise from the data.
    noise: Literal["auto", "estimate", "none"] = "auto"
    #: What to do about a side of k-space that was not measured.
    partial_fourier: Literal["zero-fill", "homodyne", "pocs"] = "zero-fill"
    #: If the scanner stored zeros around the measured part: "auto" reconstructs the measured part and interpolates to
    #: the stored grid, "keep" takes the zeros for samples.
    empty_edges: Literal["auto", "keep"] = "auto"
    #: "auto" subtracts a constant that the receiver added to all samples, a dot in the middle; "keep" leaves it.
    offset: Literal["auto", "keep"] = "auto"
    #: "auto" removes the part of the echo-planar ghost that the navigators leave; "navigators" leaves it.
    ghost: Literal["auto", "navigators"] = "auto"
    #: "svd" or "geometric" compresses to `virtual_coils` if there are more coils than that.
    coil_compression: Literal["none", "svd", "geometric"] = "svd"
    virtual_coils: Count = 12
    maps: Literal["espirit", "walsh"] = "espirit"
    #: Sets of sensitivity maps; with two, SENSE can explain wrap-around within the field of view.
    map_sets: Literal[1, 2] = 1
    espirit_kernel: Annotated[int, Ge(2), Le(16)] = 6
    #: Singular values below this share of the largest are noise.
    espirit_threshold: Fraction = 0.02
    #: Voxels whose eigenvalue is below this contain no signal.
    espirit_crop: Fraction = 0.8
    #: Largest calibration region that is used, in samples along every axis.
    calibration_size: Annotated[int, Ge(4), Le(256)] = 24
    #: Reverse the image along readout or phase, for scanners with the opposite convention to ISMRMRD's.
    flip_readout: bool = False
    flip_phase: bool = False
    #: For a non-Cartesian file without k-space positions: "radial" or "golden" angles from its counters.
    trajectory: Literal["", "radial", "golden"] = ""
    #: Non-Cartesian samples were demodulated at the isocentre and are to be shifted to the position of the slice.
    offcentre: bool = False


@dataclass(frozen=True)
class Solve:
    """Which method, and how strongly it is regularised, in units of the whitened noise."""

    method: Method = "auto"
    #: Tikhonov weight of SENSE as a multiple of noise power over signal power.
    l2: Weight = 4.0
    #: Threshold of the wavelet coefficients, and weight of total variation, in noise standard deviations.
    l1: Weight = 1.0
    tv: Weight = 0.5
    #: Zero means the method's default.
    iterations: Annotated[int, Ge(0), Le(10_000)] = 0
    tolerance: Fraction = 1e-4
    wavelet: Literal["db1", "db2", "db3", "db4"] = "db2"
    #: Extent along kz, ky, kx; 1 along kz for a single slice.
    grappa_kernel: tuple[Count, Count, Count] = (5, 5, 5)
    grappa_l2: Weight = 1e-5
    #: Trained network of "unrolled": "auto" for the best that ships, its name, or a folder. Of "varnet": a .pt file.
    weights: str = "auto"
    #: 0 keeps the noise that a full scan would show, 1 removes all of it.
    denoise: Fraction = 0.0
    #: Estimate maps again from the k-space completed by a network's image of a slice, then repeat: takes twice the
    #: time.
    refine_maps: bool = False
    seed: int = 0


@dataclass(frozen=True)
class CT:
    """Settings for CT: images in HU, and projections."""

    #: Share of the denoised image in the output; the rest is the original image with its texture. "auto" depends on the
    #: noise of each slice (recon/ct/strength.py).
    strength: Fraction | Literal["auto"] = "auto"
    #: Detail removed by a denoiser is given back if it is coarser than this many samples of the scan (which are pixels
    #: unless the image was interpolated), to keep faint lesions; 0 gives nothing back. In strong noise only a part is
    #: given back (recon/ct/strength.py).
    coarse: Annotated[float, Ge(0), Le(50)] = 3.0
    #: Window of the ramp in filtered backprojection; "auto": hann, and shepp-logan if a network removes the noise.
    filter: Literal["auto", "ramp", "shepp-logan", "hann"] = "auto"
    #: "unrolled" on projections: "rays" makes the image of each cascade consistent with the rays, A = Weight(w) @ Xray;
    #: "none" uses the rays only in the filtered backprojection that the network starts from.
    consistency: Literal["none", "rays"] = "none"
    #: Pixels along each side of the image and their size in mm; 0 takes the file's values.
    matrix: Annotated[int, Ge(0), Le(8192)] = 0
    voxel: Annotated[float, Ge(0), Le(100)] = 0.0
    #: Thickness and distance in mm of the slices made of a cone beam; 0 takes 1 mm, or a row of the detector if wider.
    thickness: Annotated[float, Ge(0), Le(100)] = 0.0
    #: Attenuation of water in 1/mm to which HU refer; 0 takes the file's, or that of 70 keV.
    water: Annotated[float, Ge(0), Le(1)] = 0.0


@dataclass(frozen=True)
class Trust:
    """When a learned image is replaced by the classical one, and how noise is propagated."""

    #: Show the classical image, with a note, if one of the limits below is exceeded.
    fallback: bool = True
    #: Largest residual of the learned image, as a multiple of the classical one's, or of the noise if that is larger;
    #: the residual left by 0.14 % of the signal is added.
    residual: Annotated[float, Ge(1), Le(1e9)] = 1.25
    #: Largest residual of the classical image, as a multiple of what noise and maps explain: above it the data are
    #: faulty.
    explained: Annotated[float, Ge(1), Le(1e9)] = 1.5
    #: Largest share of the image's energy that a network may add where nothing was measured.
    added: Fraction = 0.1
    #: Largest gain in sparsity from moving the lines outside the ACS block by a row: above it they are in wrong rows.
    misplaced: Fraction = 0.01
    #: Largest gain in agreement of fine detail from moving the lines outside the ACS block, and largest phase in
    #: degrees between these lines and those inside.
    moved: Annotated[float, Ge(1), Le(1e9)] = 1.2
    turned: Annotated[float, Ge(0), Le(90)] = 20.0
    #: Largest phase in degrees, and shift of the readout in samples, of every second line of the ACS block relative to
    #: the others: above it there are ghosts. A phase that may come from the object itself is ignored.
    alternating: Annotated[float, Ge(0), Le(180)] = 5.0
    uneven: Annotated[float, Ge(0), Le(1e9)] = 0.2
    #: Largest shift in voxels of the object between the two halves of k-space: above it the patient moved.
    apart: Annotated[float, Ge(0), Le(1e9)] = 1.5
    #: Largest shift in voxels at which the maps of separate calibration lines explain the image's lines better.
    elsewhere: Annotated[float, Ge(0), Le(1e9)] = 1.5
    #: Largest difference in any window between a network's images of a large slice with and without the object's phase,
    #: as a multiple of the change from the classical image to the latter. Above it the image may contain detail that
    #: does not exist, and the window is shown without the phase.
    rephased: Annotated[float, Ge(0), Le(1e9)] = 3.0
    #: Factor by which noise and acceleration may leave the network's training range.
    margin: Annotated[float, Ge(1), Le(1e9)] = 2.0
    #: Number of images of the data with fresh noise, whose spread is the uncertainty map; 0 makes none.
    replicas: Annotated[int, Ge(0), Le(1000)] = 0


@dataclass(frozen=True)
class Output:
    """What of an image is written."""

    #: Which real-valued images of the complex one are written to files.
    parts: tuple[Literal["magnitude", "phase", "real", "imag"], ...] = ("magnitude",)
    #: NIfTI and ISMRMRD keep complex voxels.
    complex: bool = False
    #: For DICOM: the series description (instead of the scan's), the series number, and DERIVED if a site wants it for
    #: all.
    series_description: str = ""
    series_number: Annotated[int, Ge(1), Le(2**31 - 1)] = 1
    derived: bool = False

    def __post_init__(self) -> None:
        if not self.parts or len(set(self.parts)) < len(self.parts):
            raise ReconError(
                f"output.parts = {list(self.parts)}: give at least one of magnitude, phase, real and imag, "
                "each only once"
            )


@dataclass(frozen=True)
class Images:
    """What a server does to magnitude images that a scanner sends instead of raw data."""

    #: Share of the denoised image in what is sent back; 0 passes images on unchanged.
    denoise: Fraction = 0.0
    #: The original images are sent back as well, in a separate series.
    original: bool = True


@dataclass(frozen=True)
class Recipe:
    """Everything that determines an image."""

    name: str = "default"
    prepare: Prepare = field(default_factory=Prepare)
    solve: Solve = field(default_factory=Solve)
    ct: CT = field(default_factory=CT)
    trust: Trust = field(default_factory=Trust)
    images: Images = field(default_factory=Images)
    output: Output = field(default_factory=Output)


def load(path: Path) -> Recipe:
    """The recipe in a TOML file; raises ReconError for a file, key or value that does not belong in a recipe."""
    return parse(table(path), str(path))


def table(path: Path) -> Mapping[str, Any]:
    """The content of a TOML file; raises ReconError if it is not TOML."""
    try:
        import tomllib
    except ModuleNotFoundError:  # Python 3.10
        import tomli as tomllib  # type: ignore[import-not-found,no-redef,unused-ignore]
    try:
        # Windows editors start a file with a byte order mark, which is not valid TOML.
        found: dict[str, Any] = tomllib.loads(path.read_text(encoding="utf-8-sig"))
        return found
    except FileNotFoundError:
        raise ReconError(f"there is no recipe at {path}; write one with `recon recipe > {path}`") from None
    except OSError as e:
        raise ReconError(f"{path} cannot be read: {e.strerror}; give a readable TOML file") from None
    except (UnicodeDecodeError, tomllib.TOMLDecodeError) as e:
        raise ReconError(f"{path} is not a TOML file ({e}); `recon recipe` prints one to start from") from None


@overload
def parse(table: Mapping[str, Any], where: str = ...) -> Recipe: ...
@overload
def parse(table: Mapping[str, Any], where: str, kind: type[T]) -> T: ...
def parse(table: Mapping[str, Any], where: str = "the recipe", kind: Any = Recipe) -> Any:
    """The recipe (a dataclass of dataclasses) from a mapping of sections; missing keys keep their defaults.

    A value must have the type of its key: "yes" and 1 are not booleans, "4" is not a number, 1.0 is not a count. Raises
    ReconError for an unknown key, with the nearest known one, and for a value that its key does not accept.
    """
    _check_keys(kind, table, where, "")
    from pydantic import TypeAdapter, ValidationError

    try:
        # Through JSON, because a strict check then still accepts a list for a tuple and a table for a dataclass.
        return TypeAdapter(kind).validate_json(json.dumps(dict(table), default=str), strict=True)
    except ValidationError as e:
        first = e.errors()[0]
        # The path may end with the type that was tried.
        key = ".".join(str(part) for part in first["loc"] if isinstance(part, int) or part.isidentifier())
        raise ReconError(f"in {where}, {key} = {first['input']!r}: {first['msg'].lower()}") from None


def _check_keys(cls: Any, table: Mapping[str, Any], where: str, prefix: str) -> None:
    known = {f.name: f for f in fields(cls)}
    defaults = cls()
    for key, value in table.items():
        if key not in known:
            near = difflib.get_close_matches(key, known, 1)
            hint = f"; did you mean {prefix}{near[0]}?" if near else f"; the keys are {', '.join(known)}"
            raise ReconError(f"{where} has an unknown key {prefix}{key}{hint}")
        section = getattr(defaults, key)
        if is_dataclass(section):
            if not isinstance(value, Mapping):
                raise ReconError(f"in {where}, {prefix}{key} must be a section [{prefix}{key}], not {value!r}")
            _check_keys(type(section), value, where, f"{prefix}{key}.")


def to_toml(recipe: Any) -> str:
    """The recipe (a dataclass of dataclasses) as TOML with every key; `load` reads it back."""
    import tomli_w

    return tomli_w.dumps(asdict(recipe))


def digest(recipe: Recipe) -> str:
    """SHA-256 of all values except the name: equal for recipes that make the same image."""
    values = asdict(recipe)
    values.pop("name")
    return hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()


def with_method(recipe: Recipe, method: Method) -> Recipe:
    """The recipe with another reconstruction method."""
    return replace(recipe, solve=replace(recipe.solve, method=method))
