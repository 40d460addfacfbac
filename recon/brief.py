"""How a scan, an image and a measurement print at a prompt: one line, without patient data."""

from __future__ import annotations

from typing import TYPE_CHECKING

from recon.errors import counted

if TYPE_CHECKING:
    from recon.data import Image, Measurement, RawScan


def scan(s: RawScan) -> str:
    """The format, the number of lines and channels, and the image that they will make."""
    e = s.encodings[0] if s.encodings else None
    coils = int(s.lines["active_channels"].max(initial=0))
    what = f", {e.trajectory}, image {_times(e.recon_matrix)} over {_times(e.recon_fov)} mm (x, y, z)" if e else ""
    lines = f"{counted(len(s.lines), 'line')} of {counted(coils, 'channel')}"
    return f"RawScan({s.source or 'made in memory'}, {lines}{what}{_notes(s.notes)})"


def image(i: Image) -> str:
    """Kind and length of every axis, voxel size, unit and method."""
    names = (*i.axes, "z", "y", "x")
    shape = ", ".join(f"{n} {size}" for n, size in zip(names, i.data.shape, strict=True))
    unit = "HU" if i.units == "HU" else "arbitrary units"
    method = f", {i.provenance['method']}" if i.provenance.get("method") else ""
    return f"Image({i.data.dtype} ({shape}), voxel {_times(i.geometry.voxel)} mm, {unit}{method}{_notes(i.notes)})"


def measurement(m: Measurement) -> str:
    """Kind and shape of y, the operator, and the noise."""
    kind = str(m.y.dtype).removeprefix("torch.")
    return f"Measurement(y={kind} {_times(m.y.shape)}, A={m.A!r}, sigma={m.sigma:g})"


def _times(numbers: tuple[float, ...]) -> str:
    return "×".join(f"{n:.3g}" if isinstance(n, float) else str(n) for n in numbers)


def _notes(notes: tuple[str, ...]) -> str:
    return f", {counted(len(notes), 'note')}" if notes else ""
