"""External tools that some tests compare with."""

from __future__ import annotations

import os
import shutil

import pytest

_PACKAGES = {
    "bart": "bart",
    "chromium": "chromium",
    "systemd-analyze": "systemd",
    "logrotate": "logrotate",
    "dcm2niix": "dcm2niix",
    "dciodvfy": "dicom3tools",
    "dcmdump": "dcmtk",
    "dcmqrscp": "dcmtk",
    "Orthanc": "orthanc",
    "ismrmrd_generate_cartesian_shepp_logan": "ismrmrd-tools",
}


def need(tool: str) -> str:
    """Path of a command-line tool; without it the test is skipped, or fails where CI=true promises that it is there."""
    path = shutil.which(tool)
    if path is None:
        reason = f"{tool} is not installed; on Debian: apt-get install {_PACKAGES.get(tool, tool)}"
        if os.environ.get("CI") == "true":
            pytest.fail(reason)
        pytest.skip(reason)
    return path
