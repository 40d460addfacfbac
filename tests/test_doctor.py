"""What `recon doctor` says of a machine."""

from __future__ import annotations

import json
import re

import pytest
import torch

from recon import __version__, doctor
from recon.kernels import build
from tests.command import recon


def test_what_is_there_is_named_with_its_version() -> None:
    machine = doctor.examine()
    assert machine.packages["torch"].partition("+")[0] == torch.__version__.partition("+")[0]
    assert machine.cores >= 1
    assert machine.memory_GiB > 0.1
    assert machine.processor


@pytest.mark.parametrize("missing", ["finufft", "twixtools", "cupy", "nibabel"])
def test_what_is_missing_is_named_with_its_cure(missing: str, monkeypatch: pytest.MonkeyPatch) -> None:
    version = doctor._version
    monkeypatch.setattr(doctor, "_version", lambda name: "" if name == missing else version(name))
    text = recon("doctor").out
    (line,) = [x for x in text.splitlines() if x.startswith(f"missing     {missing}")]
    assert "pip install" in line
    assert f"{missing} " not in next(x for x in text.splitlines() if x.startswith("packages"))


def test_what_is_missing_comes_with_its_install_command(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor, "_version", lambda name: "" if name in ("finufft", "cupy") else "1.0")
    missing = doctor.examine().missing
    assert "finufft: radial, spiral and other non-Cartesian scans; pip install finufft" in missing
    assert any(m.startswith("cupy: ") and "pip install cupy-cuda12x" in m for m in missing)


@pytest.mark.parametrize(("asked", "says"), [("torch", "switched off"), ("_native_sse9", "_native_sse9 is none of")])
def test_settings_of_the_environment_for_kernels_are_reported(
    asked: str, says: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RECON_KERNELS", asked)
    build.found.cache_clear()
    try:
        assert says in doctor.examine().kernels
        assert build.native() is None
    finally:
        build.found.cache_clear()


def test_kernels_that_were_not_compiled_are_reported_as_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("RECON_KERNELS", raising=False)
    monkeypatch.setattr(build, "LEVELS", {"_native_nowhere": ()})
    build.found.cache_clear()
    try:
        assert "were not compiled" in doctor.examine().kernels
        assert any("CPU kernels" in m and "g++" in m for m in doctor.examine().missing)
    finally:
        build.found.cache_clear()


def test_a_gpu_is_named_and_its_absence_reported(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert "GPU: none" in recon("doctor").out
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda i: f"card {i}")
    found = recon("doctor").out
    assert re.search(r"^GPU +card 0, card 1$", found, re.MULTILINE)
    assert "GPU: none" not in found


def test_the_finding_is_json_too() -> None:
    end = recon("doctor", "--json")
    assert end.code == 0
    assert json.loads(end.out)["recon"] == __version__
