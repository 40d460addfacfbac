"""Files of measured records that grow run by run: a repeated case replaces the earlier one."""

from __future__ import annotations

import json
from collections.abc import Hashable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from recon.data import ReconError
from recon.io.atomic import atomic_file

Record = Mapping[str, Any]


def joined(runs: Iterable[Sequence[Record]], case: Sequence[str]) -> list[Record]:
    """The records of several runs; those of a later run replace earlier ones with the same fields `case`."""
    found: dict[tuple[Hashable, ...], Record] = {}
    for records in runs:
        found |= {tuple(r.get(name) for name in case): r for r in records}
    return list(found.values())


def stored(path: Path) -> list[Record]:
    """The records of a file, empty if there is no file; raises ReconError for another kind of file."""
    try:
        records: list[Record] = json.loads(path.read_text(encoding="utf-8"))["records"]
        return records
    except FileNotFoundError:
        return []
    except (ValueError, KeyError, TypeError):
        raise ReconError(f"{path} holds no records; name another file") from None


def store(path: Path, records: Sequence[Record], case: Sequence[str], head: Mapping[str, Any]) -> None:
    """Add records to a file, replacing those of the same case, each on its own line."""
    every = [json.dumps(r, allow_nan=False) for r in joined([stored(path), records], case)]
    about = json.dumps({**head, "records": []}, allow_nan=False).removesuffix("]}")
    path.parent.mkdir(parents=True, exist_ok=True)
    with atomic_file(path) as temporary:
        temporary.write_text(about + "\n" + ",\n".join(every) + "\n]}\n", encoding="utf-8")
