"""The page of faults and the tests say the same."""

from __future__ import annotations

import re
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent


def test_every_fault_has_a_row_and_a_test_of_its_number() -> None:
    rows = re.findall(
        r"^\| F(\d\d) \| [^|]+ \| [^|]+ \| [^|]+ \| [^|]+ \|$", (ROOT / "docs/faults.md").read_text(), re.M
    )
    numbers = [f"{n:02d}" for n in range(1, 45)]
    assert rows == numbers
    tested = {
        number
        for path in (ROOT / "tests").rglob("test_*.py")
        for name in re.findall(r"^def (test_\w+)", path.read_text(), re.M)
        for number in re.findall(r"_[fF](\d\d)(?=_)", name)
    }
    assert tested == set(numbers)
