"""Settings of a PACS that cannot be right are refused before anything is sent, with a sentence (F43)."""

from __future__ import annotations

import json
import re
from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import Any

import pytest

from recon.data import ReconError
from recon.pacs.settings import Address, Pacs, Tls, address, check
from recon.serve import settings as sites
from tests.command import recon, refused
from tests.pacs.peers import Told, free_port


def test_an_address_has_title_host_and_port() -> None:
    assert address(Pacs(to="ORTHANC@127.0.0.1:4242")) == Address("ORTHANC", "127.0.0.1", 4242)
    assert address(Pacs(to="MY PACS@pacs.example:104")) == Address("MY PACS", "pacs.example", 104)
    assert address(Pacs(to="A@[::1]:11112")) == Address("A", "::1", 11112)


@pytest.mark.parametrize(
    ("settings", "word"),
    [
        ({"to": "ORTHANC"}, "AET@host:port"),
        ({"to": "@h:1"}, "AET@host:port"),
        ({"to": "A@h:0"}, "AET@host:port"),
        ({"to": "A@h:70000"}, "AET@host:port"),
        ({"to": "SEVENTEEN-LETTERS@h:104"}, "AET@host:port"),
        ({"to": "A\\B@h:104"}, "AET@host:port"),
        ({"to": "A@pacs..hospital:104"}, "AET@host:port"),
        ({"to": f"A@{'x' * 64}:104"}, "AET@host:port"),
        ({"to": "https://pacs..hospital/dicom-web"}, "not a URL"),
        ({"aet": "x" * 17}, "1 to 16"),
        ({"to": "A@192.168.1.2:104"}, "cannot reach"),
        ({"listen": "nowhere"}, "listen"),
        ({"listen": "127.0.0.1:99999"}, "listen"),
        ({"confirm": "qido"}, "needs a PACS at https"),
        ({"login": "x"}, "for DICOMweb only"),
        ({"to": "https://u:secret@h/dicom-web"}, "holds a password"),
        ({"to": "https://h/dicom-web", "confirm": "commitment"}, "AET@host:port"),
        ({"to": "https:///dicom-web"}, "not a URL"),
        ({"to": "https://h:x/"}, "not a URL"),
        ({"to": "http://h/dicom-web", "login": "l"}, "unencrypted"),
        ({"to": "http://127.0.0.1/", "tls": Tls("ca.pem")}, "https"),
        ({"tls": Tls("", "c", "k")}, "no ca"),
        ({"tls": Tls("ca.pem", "c")}, "both certificate and key"),
        ({"tls": Tls("missing.pem")}, "there is no file missing.pem"),
    ],
)
def test_f43_what_cannot_be_right_is_refused(
    settings: dict[str, object], word: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "ca.pem").touch()
    with pytest.raises(ReconError, match=word) as e:
        check(Pacs(**{"to": "A@127.0.0.1:104", **settings}))  # type: ignore[arg-type]
    assert "secret" not in str(e.value)


def test_f43_a_key_that_others_may_read_is_refused(tmp_path: Path) -> None:
    for name in ("ca", "c", "k"):
        (tmp_path / name).touch()
    (tmp_path / "k").chmod(0o640)
    with pytest.raises(ReconError, match="can be read by other users"):
        check(Pacs(to="A@127.0.0.1:104", tls=Tls(*(str(tmp_path / n) for n in ("ca", "c", "k")))))


def test_f43_a_file_that_holds_no_certificate_is_refused(tmp_path: Path) -> None:
    (tmp_path / "ca.pem").write_text("no certificate")
    with pytest.raises(ReconError, match="certificates cannot be loaded"):
        check(Pacs(to="A@127.0.0.1:104", tls=Tls(str(tmp_path / "ca.pem"))))


PACKAGES = {"pynetdicom": "pynetdicom", "dicomanonymizer": "dicom-anonymizer"}


@pytest.mark.parametrize(("missing", "package"), PACKAGES.items())
def test_a_missing_package_is_named_with_its_cure(missing: str, package: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None if name == missing else name)
    with pytest.raises(ReconError, match=f"the package {package} is missing; run pip install {package}$"):
        check(Pacs(to="A@127.0.0.1:104", deidentify=True))


SITE = """
[pacs]
to = "ORTHANC@127.0.0.1:{port}"
spool = "spool"
retry_minutes = [1, 5, 15]
[pacs.waits]
answer_s = 2
"""


def site(folder: Path, port: int, more: str = "") -> Path:
    path = folder / "site.toml"
    path.write_text(SITE.format(port=port) + more)
    return path


def test_a_site_names_its_pacs_with_files_beside_it(tmp_path: Path) -> None:
    pacs = sites.load(site(tmp_path, 4242)).pacs
    assert pacs.spool == str(tmp_path / "spool")
    assert pacs.retry_minutes == (1, 5, 15)
    assert pacs.waits.answer_s == 2
    assert pacs.confirmed_by == "commitment"


@pytest.mark.parametrize(
    ("more", "word"),
    [
        ("commitmnt_s = 3\n", "pacs.waits.commitmnt_s; did you mean pacs.waits.commitment_s"),
        ("[pacs.tls]\nca = 'missing.pem'\n", "there is no file"),
        ("[pacs.tls]\npassword = 'x'\n", "unknown key pacs.tls.password"),
        ("idle_s = 0\n", "greater than or equal"),
    ],
)
def test_f43_check_names_what_is_wrong_in_the_section(tmp_path: Path, more: str, word: str) -> None:
    assert word in refused(recon("serve", "--check", site(tmp_path, 4242, more)), 2)


def test_check_can_ask_whether_the_pacs_is_there(tmp_path: Path) -> None:
    with Told(aet="ORTHANC").running() as pacs:
        end = recon("serve", "--check", site(tmp_path, pacs.port), "--echo")
        assert end.code == 0
        assert end.out.endswith(f"ORTHANC@127.0.0.1:{pacs.port} is there\n")
    end = recon("serve", "--check", site(tmp_path, free_port()), "--echo")
    assert end.code == 1
    assert "no connection (Connection refused)" in end.err


def keys(section: Any, prefix: str = "") -> dict[str, Any]:
    """All keys of a site's settings and their defaults."""
    found: dict[str, Any] = {}
    for f in fields(section):
        value = getattr(section, f.name)
        found |= keys(value, f"{prefix}{f.name}.") if is_dataclass(value) else {prefix + f.name: value}
    return found


def test_the_reference_has_every_key_with_its_default() -> None:
    page = (Path(__file__).parents[2] / "docs" / "reference" / "site.md").read_text()
    rows = dict(re.findall(r"^\| `([\w.]+)` \|(.*?)\|", page, re.M))
    stated = {k: json.loads(v.strip(" `")) if v.strip() else None for k, v in rows.items()}
    expected = {k: list(v) if isinstance(v, tuple) else v for k, v in keys(sites.Site()).items()}
    assert stated == expected
