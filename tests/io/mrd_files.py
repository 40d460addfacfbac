"""ISMRMRD files for tests: made by the reference generator, or record by record by the ismrmrd package."""

from __future__ import annotations

import hashlib
import subprocess
from collections.abc import Callable
from pathlib import Path

import ismrmrd
import numpy as np

from tests.tools import need

XML = """<?xml version="1.0"?>
<ismrmrdHeader xmlns="http://www.ismrm.org/ISMRMRD">
 <experimentalConditions><H1resonanceFrequency_Hz>63500000</H1resonanceFrequency_Hz></experimentalConditions>
 <encoding>
  <encodedSpace><matrixSize><x>32</x><y>24</y><z>1</z></matrixSize>
   <fieldOfView_mm><x>480</x><y>240</y><z>6</z></fieldOfView_mm></encodedSpace>
  <reconSpace><matrixSize><x>16</x><y>24</y><z>1</z></matrixSize>
   <fieldOfView_mm><x>240</x><y>240</y><z>6</z></fieldOfView_mm></reconSpace>
  <encodingLimits>
   <kspace_encoding_step_1><minimum>0</minimum><maximum>23</maximum><center>12</center></kspace_encoding_step_1>
   <slice><minimum>0</minimum><maximum>0</maximum><center>0</center></slice>
  </encodingLimits>
  <trajectory>cartesian</trajectory>
 </encoding>
</ismrmrdHeader>"""


def digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def generate(path: Path, *options: str) -> Path:
    """A file by ismrmrd_generate_cartesian_shepp_logan with the given options."""
    tool = need("ismrmrd_generate_cartesian_shepp_logan")
    subprocess.run([tool, *options, "-o", str(path)], check=True, capture_output=True)
    return path


def kspace(channels: int = 2, seed: int = 0) -> np.ndarray:
    """Noise of (coil, ky, kx) on the grid of XML."""
    rng = np.random.default_rng(seed)
    return (rng.standard_normal((channels, 24, 32)) + 1j * rng.standard_normal((channels, 24, 32))).astype(np.complex64)


def line(k: np.ndarray, ky: int, **head: int) -> ismrmrd.Acquisition:
    """The line ky of (coil, ky, kx) with further fields of its header; idx fields by their names."""
    acquisition = ismrmrd.Acquisition.from_array(np.ascontiguousarray(k[:, ky]))
    acquisition.center_sample = k.shape[2] // 2
    acquisition.idx.kspace_encode_step_1 = ky
    for name, value in head.items():
        target = acquisition.idx if hasattr(acquisition.idx, name) else acquisition
        setattr(target, name, value)
    return acquisition


def save(path: Path, lines: list[ismrmrd.Acquisition], xml: str | bytes | None = XML, dataset: str = "dataset") -> Path:
    """A file by the ismrmrd package."""
    with ismrmrd.Dataset(str(path), dataset) as file:
        if xml is not None:
            file.write_xml_header(xml if isinstance(xml, bytes) else xml.encode())
        for acquisition in lines:
            file.append_acquisition(acquisition)
    return path


def scan_file(path: Path, change: Callable[[ismrmrd.Acquisition, int], None] | None = None, xml: str = XML) -> Path:
    """All 24 lines of `kspace()`, each passed through `change(acquisition, number)`."""
    k, lines = kspace(), []
    for ky in range(24):
        acquisition = line(k, ky)
        if change is not None:
            change(acquisition, ky)
        lines.append(acquisition)
    return save(path, lines, xml)
