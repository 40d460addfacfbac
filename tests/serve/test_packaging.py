"""What a site installs: the label of the OpenRecon application and its questions, the container, the service."""

from __future__ import annotations

import base64
import json
import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jsonschema
import pytest

from recon import recipe as recipes
from recon.data import ReconError
from recon.recipe import Recipe
from recon.serve import openrecon, parameters, settings
from recon.serve.audit import Audit
from recon.serve.parameters import PARAMETERS
from tests.command import recon
from tests.serve import scanner
from tests.serve.conftest import Local
from tests.serve.scanner import Recording, run, session
from tests.serve.test_session import ends_well
from tests.tools import need

ROOT = Path(__file__).resolve().parents[2]
PACKAGING = ROOT / "packaging"
SCHEMA = json.loads(Path(__file__).with_name("openrecon_schema.json").read_text())

Start = Callable[..., Local]


def test_the_label_of_openrecon_is_valid(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SOURCE_DATE_EPOCH", "1700000000")
    made = json.loads(recon("openrecon-label").out)
    jsonschema.Draft202012Validator.check_schema(SCHEMA)
    jsonschema.validate(made, SCHEMA)
    assert made["general"]["regulatory_information"]["manufacture_date"] == "2023/11/14"
    ids = [p["id"] for p in made["parameters"]]
    assert len(set(ids)) == len(ids)
    for p in made["parameters"]:
        values = [v["id"] for v in p.get("values", [])]
        assert len(set(values)) == len(values)
        assert p["type"] != "choice" or p["default"] in values
    config = next(p for p in made["parameters"] if p["id"] == "config")
    assert {v["id"] for v in config["values"]} == set(settings.registered(settings.Site())) - {"openrecon"}
    coded = recon("openrecon-label", "--base64").out
    assert json.loads(base64.b64decode(coded)) == made


@pytest.mark.parametrize(
    "wrong",
    [
        lambda x: x.pop("parameters"), lambda x: x.update(more=1), lambda x: x["reconstruction"].update(port="9002"),
        lambda x: x["reconstruction"].update(emitter="video"), lambda x: x["general"].update(version="1.0.dev1"),
        lambda x: x["parameters"][0].update(id="my_config"), lambda x: x["parameters"].extend([{}] * 14),
        lambda x: x["general"]["regulatory_information"].pop("gtin"), lambda x: x["parameters"][0].pop("values"),
    ],
)  # fmt: skip
def test_the_schema_refuses_what_it_should(wrong: Callable[[dict[str, Any]], Any]) -> None:
    made = openrecon.label(["auto"])
    wrong(made)
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate(made, SCHEMA)


def test_the_recipes_of_a_site_can_be_chosen(tmp_path: Path) -> None:
    (tmp_path / "fast.toml").write_text('[solve]\nmethod = "combine"\n')
    (tmp_path / "site.toml").write_text('port = 9003\n[recipes]\nfast = "fast.toml"\n')
    made = json.loads(recon("openrecon-label", "--config", tmp_path / "site.toml").out)
    assert made["reconstruction"]["port"] == 9003
    assert "fast" in [v["id"] for v in made["parameters"][0]["values"]]


def text(**values: Any) -> str:
    return json.dumps({"version": "1.1.0", "parameters": values})


@pytest.mark.parametrize("p", PARAMETERS, ids=lambda p: p.id)
def test_every_choice_of_the_user_interface_changes_only_its_recipe(p: parameters.Parameter) -> None:
    plain = Recipe()
    made = {value: parameters.applied(plain, {p.id: value}, []) for value in p.values}
    assert len({repr(m) for m in made.values()}) == len(p.values)
    assert repr(plain) in {repr(m) for m in made.values()}
    assert parameters.applied(plain, {p.id: "recipe"}, []) is plain
    with pytest.raises(ReconError, match=f"the parameter {p.id} takes recipe, "):
        parameters.applied(plain, {p.id: "Zzyzx"}, [])


def test_names_texts_and_numbers_of_the_user_interface_are_read() -> None:
    notes: list[str] = []
    given = parameters.wishes(
        text(config="sense", customconfig="", denoise="half", shadow=3, more=True, deep={}), notes
    )
    assert parameters.name(given) == "sense"
    assert parameters.applied(Recipe(), given, notes).solve.denoise == 0.5
    assert notes == ["2 parameters of the user interface are not known here and change nothing"]
    assert parameters.name(parameters.wishes(text(customconfig="brain"), notes)) == "brain"
    for broken in ("", "[]", '{"parameters": 3}', "[" * 100000):
        assert parameters.wishes(broken, notes) == {}
    assert "holds no JSON" in notes[-1]


def test_a_scanner_gets_the_images_that_it_asks_for(local: Start, recording: Recording) -> None:
    def asks(**values: Any) -> list[bytes]:
        first, head, *rest = session(recording)
        return [first, head, scanner.string(5, text(config="auto", **values).encode()), *rest]

    server = local()
    reply = run(server.port, asks(images="magnitudephase", customconfig="combine"))
    assert sorted((i.series, i.head[36]) for i in reply.images) == [(0, 1), (0, 1), (1, 2), (1, 2)]
    # What `auto` takes: the name that the scanner's user chose in vain was that of a method.
    assert {t["made"]["method"] for t in server.told if "made" in t} == {"unrolled"}
    said = ends_well(run(server.port, asks(denoise="Zzyzx")))
    assert "the parameter denoise takes recipe, none, quarter, half, full" in said
    assert "Zzyzx" not in said
    reply = run(server.port, asks(shadow="Zzyzx"))
    assert len(reply.images) == 2
    assert any("1 parameters of the user interface" in t for t in reply.texts)


def test_the_container_has_the_label_and_starts_the_server() -> None:
    words = (PACKAGING / "openrecon/Dockerfile").read_text()
    assert f'LABEL "{openrecon.KEY}"="${{LABEL}}"' in words
    assert "USER" not in words  # the scanner starts applications only as root
    assert f"EXPOSE {settings.Site().port}" in words
    command = json.loads(re.findall(r"^CMD (.*)$", words, re.MULTILINE)[-1])
    assert command == ["recon", "serve", "--config", "/etc/recon.toml"]
    # The tested versions; users with their own registry and index name them.
    pinned = re.findall(r"^torch==.*$", (ROOT / "constraints.txt").read_text(), re.MULTILINE)
    assert re.findall(r"^ARG TORCH=(.*)$", words, re.MULTILINE) == pinned
    assert words.count("FROM ${BASE}") == 2
    assert "ARG TORCH_INDEX=https://" in words
    site = settings.load(PACKAGING / "openrecon/site.toml")
    assert (site.host, site.pixel, bool(site.allow)) == ("0.0.0.0", "int16", True)


def test_the_container_is_built_from_the_package_and_nothing_else() -> None:
    """No history, data, results or environment of a developer: the image is whatever a list allows."""
    rules = [r for r in (ROOT / ".dockerignore").read_text().splitlines() if r and not r.startswith("#")]
    assert rules[0] == "*"
    allowed = {r[1:] for r in rules if r.startswith("!")}
    top = {"pyproject.toml", "setup.py", "README.md", "LICENSE", "constraints.txt", "recon", "kernels", "trained"}
    assert allowed == {*top, "packaging/openrecon/site.toml"}
    assert {r for r in rules[1:] if not r.startswith("!")} == {"**/__pycache__", "**/*.so"}
    assert all((ROOT / name).exists() for name in allowed)
    copied = re.findall(r"^COPY (?!--from)(\S+) ", (PACKAGING / "openrecon/Dockerfile").read_text(), re.MULTILINE)
    assert set(copied) - {"."} <= allowed
    built = recipes.table(ROOT / "pyproject.toml")
    assert {path.partition("/")[0] for path in built["tool"]["setuptools"]["package-dir"].values()} <= allowed
    assert {built["project"]["readme"], *built["project"]["license-files"]} <= allowed


def test_the_package_is_named_by_its_label_as_the_scanner_wants() -> None:
    """OpenRecon_<vendor>_<name>_V<version>: the scanner rejects packages with other file names."""
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    build = ["bash", str(PACKAGING / "openrecon/build.sh"), "manual.pdf", "--name"]
    done = subprocess.run(build, capture_output=True, text=True, check=False, env={**os.environ, "PATH": path})
    general = openrecon.label(["auto"])["general"]
    expected = f"OpenRecon_{general['vendor']}_{general['name']['en']}_V{general['version']}"
    assert (done.returncode, done.stdout.strip()) == (0, expected), done.stderr


def test_a_scanner_names_every_application_openrecon_and_its_user_interface_the_recipe(
    local: Start, recording: Recording
) -> None:
    server = local()
    defaults = {p["id"]: p["default"] for p in openrecon.label(settings.registered(settings.Site()))["parameters"]}
    for chosen in ({}, {"config": "combine"}):
        said = scanner.string(5, text(**{**defaults, **chosen}).encode())
        reply = run(server.port, [scanner.config("openrecon"), *session(recording)[1:2], said, *session(recording)[2:]])
        assert (len(reply.images), reply.error()) == (2, "")
        assert [t["recipe"] for t in server.told if "recipe" in t][-1] == chosen.get("config", defaults["config"])


def test_the_service_is_a_unit_that_systemd_takes(tmp_path: Path) -> None:
    verify = need("systemd-analyze")
    words = (PACKAGING / "recon.service").read_text()
    program = Path(sys.executable).with_name("recon")
    assert program.is_file()
    unit = tmp_path / "recon.service"
    unit.write_text(words.replace("/opt/recon/bin/recon", str(program)))
    done = subprocess.run([verify, "verify", "--man=no", unit], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    unit.write_text(words.replace("/opt/recon/bin/recon", str(program)).replace("NoNewPrivileges", "NoNewPrivilege"))
    assert subprocess.run([verify, "verify", "--man=no", unit], capture_output=True, text=True, check=False).stderr
    for line in re.findall(r"^ExecStart(?:Pre)?=/opt/recon/bin/recon (.*)$", words, re.MULTILINE):
        verb, *options = line.split()
        assert verb == "serve"
        assert all(o in recon("serve", "--help").out for o in options if o.startswith("--"))


def test_logrotate_moves_the_audit_and_its_lines_go_on(tmp_path: Path) -> None:
    rotate = need("logrotate")
    path, told = tmp_path / "audit.jsonl", tmp_path / "told"
    words = (PACKAGING / "recon.logrotate").read_text()
    for before, after in (
        ("/var/log/recon/audit.jsonl", str(path)),
        ("systemctl kill --signal=HUP --kill-who=main recon.service", f"touch {told}"),
    ):
        assert before in words
        words = words.replace(before, after)
    (tmp_path / "logrotate.conf").write_text(words)
    (tmp_path / "logrotate.conf").chmod(0o644)
    audit = Audit(path)
    audit.write("started", job="a")
    command = [rotate, "--force", "--state", str(tmp_path / "state"), str(tmp_path / "logrotate.conf")]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    assert told.exists()  # what stands for SIGHUP
    audit.reopen()
    audit.write("ended", job="a")
    audit.close()
    (moved,) = tmp_path.glob("audit.jsonl-*")
    assert [json.loads(p.read_text())["n"] for p in (moved, path)] == [1, 2]
    assert path.stat().st_mode & 0o777 == 0o600
