"""Programs of the documentation run as they stand, page by page, in an empty folder with a simulated scan or two."""

from __future__ import annotations

import re
import warnings
from pathlib import Path

import pytest

from recon import simulation

ROOT = Path(__file__).resolve().parent.parent
#: Pages whose programs run, each page from top to bottom in one session, and how many programs it has at least.
PAGES = {
    "README.md": 1,
    "docs/tutorials/python.md": 6,
    "docs/tutorials/from-others.md": 3,
    "docs/how-to/own-method.md": 9,
    "docs/how-to/non-cartesian.md": 2,
    "docs/how-to/many-scans.md": 2,
    "docs/reference/arrays.md": 3,
    "docs/how-to/partial-fourier.md": 1,
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


def test_a_program_that_fails_is_seen(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    page = tmp_path / "page.md"
    page.write_text("# A page\n\n```python\nx = 1\n```\n\n    ```python\n    assert x == 2\n    ```\n")
    found = programs(str(page))
    assert [line for line, _ in found] == [4, 8]
    session: dict[str, object] = {}
    exec(found[0][1], session)
    with pytest.raises(AssertionError):
        exec(found[1][1], session)
