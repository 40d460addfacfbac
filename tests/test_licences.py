"""What an installation brings is under licences that ask nothing of a hospital, but for what a page names."""

from __future__ import annotations

import importlib.util
import re
import sys
from importlib import metadata
from pathlib import Path

import pytest
from packaging.requirements import Requirement

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

ROOT = Path(__file__).resolve().parent.parent
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
EXTRAS = ["noncartesian", "twix", "ct", "pacs", "tls", "train"]
#: Words of licences that bind those who pass a program on, or that are not for everybody.
BINDING = re.compile(r"GPL|General Public|Affero|Proprietary|non-?commercial", re.IGNORECASE)


def licence(name: str) -> str:
    """What a package says of its licence: the expression, else the classifiers, else the first line of the text."""
    about = metadata.metadata(name)
    classifiers = [c for c in about.get_all("Classifier") or [] if c.startswith("License")]
    text = str(about.get("License") or "").strip()
    return str(about.get("License-Expression") or "; ".join(classifiers) or text.partition("\n")[0])


def brought(asked: list[str]) -> dict[str, str]:
    """Every package that these requirements bring, and its licence."""
    found: dict[str, str] = {}
    waiting = [Requirement(text) for text in asked]
    while waiting:
        r = waiting.pop()
        name = r.name.lower().replace("_", "-")
        if name in found or (r.marker and not r.marker.evaluate({"extra": ""})):
            continue
        found[name] = licence(r.name)
        waiting += [Requirement(text) for text in metadata.requires(r.name) or []]
    return found


@pytest.mark.parametrize("extra", ["", *EXTRAS])
def test_no_package_says_that_it_binds_who_passes_it_on(extra: str) -> None:
    found = brought(PROJECT["optional-dependencies"][extra] if extra else PROJECT["dependencies"])
    assert found
    assert [name for name, says in found.items() if not says] == []
    assert {name: says for name, says in found.items() if BINDING.search(says)} == {}


def test_files_that_a_wheel_contains_without_declaring_them_are_named() -> None:
    """FFTW is under the GPL; finufft is under Apache-2.0, and its wheel is built with FFTW."""
    spec = importlib.util.find_spec("finufft")
    assert spec
    folder = Path(str(spec.origin)).parent
    holds = any(b"fftw_codelet" in p.read_bytes() for p in folder.glob("*.so"))
    page = (ROOT / "docs" / "how-to" / "hospital.md").read_text(encoding="utf-8")
    assert holds == ("FFTW" in page)
