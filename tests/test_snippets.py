"""Programs and commands of the documentation run as they stand, page by page, in an empty folder with a simulated scan.

What a page shows beneath a command is what the command prints.
"""

from __future__ import annotations

import re
import shlex
import warnings
from pathlib import Path

import numpy as np
import pytest
import typer

from recon import cli, simulation
from tests.command import recon

ROOT = Path(__file__).resolve().parent.parent
#: Pages whose programs are run, each page from top to bottom in one session, with the least number of programs.
PAGES = {
    "README.md": 1,
    "docs/tutorials/python.md": 6,
    "docs/tutorials/from-others.md": 3,
    "docs/how-to/own-method.md": 10,
    "docs/how-to/non-cartesian.md": 2,
    "docs/how-to/many-scans.md": 2,
    "docs/reference/arrays.md": 3,
    "docs/how-to/partial-fourier.md": 1,
    "docs/how-to/output.md": 2,
    "docs/tutorials/ct.md": 1,
}
#: What a reader of a page has: counts of 2 slices, 90 views and 64 elements, frames without a body and without a beam.
GIVEN: dict[str, dict[str, object]] = {
    "docs/tutorials/ct.md": {
        "counts": np.full((2, 90, 64), 900.0), "flat": np.full((3, 64), 1000.0), "dark": np.zeros((3, 64)), "views": 90,
    },
}  # fmt: skip

#: Pages whose `recon` commands are run, with their number. Files that a page does not make exist before.
COMMANDS = {
    "docs/tutorials/offline.md": 6,
    "docs/how-to/epi.md": 2,
    "docs/how-to/non-cartesian.md": 4,
    "docs/how-to/methods.md": 2,
}

#: What shows commands to readers, beside the modules of bench/ that they start.
SHOWN = [
    *(ROOT / name for name in ("README.md", "CONTRIBUTING.md", "CHANGELOG.md", "packaging/recon.service")),
    *sorted((ROOT / "docs").rglob("*.md")),
    *sorted((ROOT / "trained").glob("*/card.md")),
]
VERBS = typer.main.get_command(cli.app).commands  # type: ignore[attr-defined]
#: A command of ours at the beginning of a line or of what a shell, a service or torchrun starts.
OURS = re.compile(r"(?:^|[$;|=] |/bin/|-m )recon ([a-z-].*)")


def programs(page: str) -> list[tuple[int, str]]:
    """The programs of a page with the number of their first line."""
    text = (ROOT / page).read_text(encoding="utf-8")
    found = re.finditer(r"^( *)```python\n(.*?)^\1```$", text, re.MULTILINE | re.DOTALL)
    return [(text[: m.start(2)].count("\n") + 1, re.sub(rf"^{m[1]}", "", m[2], flags=re.M)) for m in found]


@pytest.mark.parametrize("page", PAGES)
def test_the_programs_of_a_page_run(page: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    simulation.simulate_to("scan.h5", simulation.preset(matrix=64, accel=2, coils=4))
    Path("scans").mkdir()
    Path("scans/a.h5").write_bytes(Path("scan.h5").read_bytes())
    Path("scans/b.h5").write_bytes(Path("scan.h5").read_bytes()[:2000])
    if page == "docs/how-to/output.md":  # an output to read back
        assert recon("run", "scan.h5", "-o", "brain_dicom/", "--method", "sense").code == 0
    assert len(programs(page)) >= PAGES[page]
    exec_programs(page, GIVEN.get(page, {}))
    if page == "docs/tutorials/ct.md":
        shown = recon("info", "mine.h5")
        assert (shown.code, "2 slices" in shown.out) == (0, True), shown


def exec_programs(page: str, given: dict[str, object]) -> None:
    """Run the programs of a page in one session that knows these names."""
    session: dict[str, object] = {"__name__": "__main__", **given}
    for line, code in programs(page):
        # As many empty lines before it as the page has: a traceback names the line of the page.
        with warnings.catch_warnings():
            warnings.simplefilter("error", DeprecationWarning)
            exec(compile("\n" * (line - 1) + code, str(ROOT / page), "exec"), session)


def commands(text: str) -> list[tuple[str, list[str]]]:
    """What a page types after a dollar sign, and the lines that it shows beneath."""
    found: list[tuple[str, list[str]]] = []
    for block in re.findall(r"^```console\n(.*?)^```$", text, re.MULTILINE | re.DOTALL):
        for line in block.splitlines():
            if line.startswith("$ "):
                found.append((line[2:], []))
            else:
                found[-1][1].append(line)
    return found


@pytest.mark.parametrize("page", COMMANDS)
def test_the_commands_of_a_page_print_what_it_shows(page: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    text = (ROOT / page).read_text(encoding="utf-8")
    for toml in re.finditer(r"^```toml\n# (\w+\.toml)\n.*?(?=^```$)", text, re.MULTILINE | re.DOTALL):
        Path(toml[1]).write_text(toml[0].partition("\n")[2], encoding="utf-8")
    if "simulate -o scan.h5" not in text:
        simulation.simulate_to("scan.h5", simulation.preset(matrix=64, accel=3, coils=4))
    samples = np.random.default_rng(0).standard_normal((2, 4, 40, 32))
    np.savez("lines.npz", samples[0] + 1j * samples[1])
    np.save("positions.npy", np.random.default_rng(1).uniform(-0.5, 0.5, (40, 32, 2)))
    typed = [(line, shown) for line, shown in commands(text) if line.startswith("recon ")]
    assert len(typed) == COMMANDS[page]
    for line, shown in typed:
        words = shlex.split(line, comments=True)
        target = words[words.index(">") + 1] if ">" in words else ""
        end = recon(*(words[1 : words.index(">")] if target else words[1:]))
        assert end.code == 0, (line, end.err)
        if target:
            Path(target).write_text(end.out, encoding="utf-8")
        if shown:
            assert sorted(shown) == sorted((end.out + end.err).splitlines()), line
    if page not in PAGES:
        exec_programs(page, {})


def test_a_page_that_shows_what_is_not_printed_is_seen() -> None:
    text = "```console\n$ recon doctor  # here\nnothing\n```\nand\n```console\n$ ls\n$ recon recipe\n```\n"
    assert commands(text) == [("recon doctor  # here", ["nothing"]), ("ls", []), ("recon recipe", [])]


def test_a_program_that_fails_is_seen(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    page = tmp_path / "page.md"
    page.write_text("# A page\n\n```python\nx = 1\n```\n\n    ```python\n    assert x == 2\n    ```\n")
    found = programs(str(page))
    assert [line for line, _ in found] == [4, 8]
    session: dict[str, object] = {}
    exec(found[0][1], session)
    with pytest.raises(AssertionError):
        exec(found[1][1], session)


def typed(text: str) -> list[str]:
    """What follows `recon` in the blocks of a page, one command a line, up to what only a shell reads."""
    found: list[str] = []
    fence = ""
    for line in text.splitlines():
        if mark := re.match(r" *```(\w*)", line):
            fence = "" if fence else mark[1] or "text"
        elif (fence and not fence.startswith("py")) or line.startswith("    "):
            # A name such as recon.reconstruct, and a word of prose, is no command.
            found += [re.split(r";|\s(?:#|\d?>|&&|\|\|)", m[1])[0].strip() for m in [OURS.search(line.strip())] if m]
    return found


def named(text: str) -> list[str]:
    """What follows `recon` where a sentence, a unit of a service or a synopsis names a command."""
    spans = [m[1] for m in re.finditer(r"`recon\s+([a-z-][^`]+)`", re.sub(r"^```.*?^```", "", text, flags=re.M | re.S))]
    return [" ".join(s.split()) for s in spans]


def is_synopsis(command: str) -> bool:
    return bool(re.search(r" \[|…| \| ", command))


def options_of(verb: str) -> set[str]:
    return {o for p in VERBS[verb].params for o in (*p.opts, *p.secondary_opts)} | {"--help", "--debug"}


def unknown(command: str) -> list[str]:
    """Verb or options of a command that do not exist."""
    verb, _, rest = command.partition(" ")
    if not re.fullmatch(r"[a-z-]+", verb) or verb.startswith("-"):
        return [] if verb in ("--version", "--debug", "--help") else [verb]
    if verb not in VERBS:
        return [verb]
    return sorted(set(re.findall(r"(?<![\w-])--?[a-z][a-z0-9-]*", rest)) - options_of(verb))


@pytest.mark.parametrize("page", SHOWN, ids=lambda p: str(p.relative_to(ROOT)))
def test_every_command_of_a_page_is_accepted_by_the_command_line(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    whole = [c for c in typed(text) if not is_synopsis(c)]
    for command in (*typed(text), *named(text)):
        assert not unknown(command), command
    for command in whole:
        words = shlex.split(command)
        if words[0] in VERBS:
            with warnings.catch_warnings(), VERBS[words[0]].make_context(words[0], words[1:]):
                pass


@pytest.mark.parametrize("page", SHOWN, ids=lambda p: str(p.relative_to(ROOT)))
def test_every_program_of_bench_that_a_page_names_has_its_options(page: Path) -> None:
    for name, rest in re.findall(r"python bench/(\w+)\.py([^`#\n]*)", page.read_text(encoding="utf-8")):
        source = (ROOT / "bench" / f"{name}.py").read_text(encoding="utf-8")
        for module in re.findall(r"^(?:from bench|import|from) (?:import )?(\w+)", source, re.MULTILINE):
            if (beside := ROOT / "bench" / f"{module}.py").exists():
                source += beside.read_text(encoding="utf-8")
        for option in re.findall(r" (--[a-z][a-z0-9-]*)", rest):
            assert f'"{option}"' in source, (name, option)


def test_an_invalid_command_is_detected() -> None:
    page = """Prose: `recon run --metod cs`.

        $ recon bench a.h5 -o out/ --accel 2 4  # two of them
        for f in *; do /opt/bin/recon infos "$f" 2> log || echo; done

    ```console
    $ recon run scan.h5 --denoise 2 -o a.png > log
    ```
    """
    assert typed(page) == ["bench a.h5 -o out/ --accel 2 4", 'infos "$f"', "run scan.h5 --denoise 2 -o a.png"]
    assert [unknown(c) for c in (*typed(page), *named(page))] == [[], ["infos"], [], ["--metod"]]
    with pytest.raises(typer.BadParameter, match="less than or equal to 1"):
        VERBS["run"].make_context("run", shlex.split(typed(page)[2])[1:])
