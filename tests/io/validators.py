"""What other people's programs make of a DICOM file, and how two NIfTI images differ."""

from __future__ import annotations

import subprocess
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np

from tests.tools import need


def dcm2niix(folder: Path, out: Path) -> dict[str, nib.Nifti1Image]:
    out.mkdir()
    run = subprocess.run(
        [need("dcm2niix"), "-b", "n", "-f", "%s", "-o", str(out), str(folder)], capture_output=True, text=True
    )
    assert run.returncode == 0, run.stdout
    return {p.stem: nib.load(p) for p in sorted(out.glob("*.nii"))}


def errors(path: Path) -> list[str]:
    """Lines of dciodvfy that start with Error; its exit code says nothing."""
    run = subprocess.run([need("dciodvfy"), "-new", str(path)], capture_output=True)
    text = (run.stderr + run.stdout).decode(errors="replace")
    assert "MRImage" in text or "CTImage" in text, text
    return [line for line in text.splitlines() if line.startswith("Error")]


def differences(a: Any, b: Any) -> str:
    """Why two NIfTI images show different voxels or places, after turning both to the closest canonical axes."""
    a, b = nib.as_closest_canonical(a), nib.as_closest_canonical(b)
    if a.shape != b.shape:
        return f"shapes {a.shape} and {b.shape}"
    if not np.array_equal(np.asarray(a.dataobj, np.float32), np.asarray(b.dataobj, np.float32)):
        return "voxels"
    if np.abs(a.affine - b.affine).max() > 2e-3:
        return f"affine by {np.abs(a.affine - b.affine).max():.4f}"
    return ""
