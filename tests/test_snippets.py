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

from recon import simulation
from tests.command import recon

ROOT = Path(__file__).resolve().parent.parent
#: Pages whose programs run, each page from top to bottom in one session, and how many programs it has at least.
PAGES = {
    "README.md": 1,
    "docs/tutorials/python.md": 6,
    "docs/tutorials/from-others.md": 3,
    "docs/how-to/own-method.md": 10,
    "docs/how-to/non-cartesian.md": 2,
    "docs/how-to/many-scans.md": 2,
    "docs/reference/arrays.md": 3,
    "docs/how-to/partial-fourier.md": 1,
}

#: Pages whose `recon` commands run, and how many there are. What is not made by a page lies there before.
COMMANDS = {
    "docs/tutorials/offline.md": 6,
    "docs/how-to/epi.md": 2,
    "docs/how-to/non-cartesian.md": 4,
    "docs/how-to/methods.md": 2,
}


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
    found = programs(page)
    assert len(found) >= PAGES[page]
    session: dict[str, object] = {"__name__": "__main__"}
    for line, code in found:
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
