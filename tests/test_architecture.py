"""The house rules that a parser can check: imports run one way, and starting is cheap."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent

#: Each part of the package and the parts that it may import at module level or inside functions.
MAY_IMPORT = {
    "geometry": set(),
    "brief": {"errors"},
    "header": set(),
    "lines": set(),
    "data": {"brief", "errors", "geometry", "header", "lines"},
    "masks": set(),
    "metrics": {"data"},
    "simulation": {"data", "geometry", "hounsfield", "io", "masks", "operators", "prepare", "progress", "solve"},
    "recipe": {"errors"},
    "progress": {"errors"},
    "kernels": set(),
    "operators": {"kernels", "data"},
    "solve": {"operators", "kernels", "data", "masks"},
    "io": {"data", "errors", "geometry", "starting", "__init__"},
    "prepare": {"operators", "kernels", "data", "geometry", "masks", "starting"},
    "nets": {"data", "kernels", "operators", "solve", "starting"},
    "learn": {
        *("data", "hounsfield", "io", "masks", "nets", "operators", "prepare", "progress", "recipe", "simulation"),
        *("kernels", "solve", "starting"),
    },
    "info": {"ct", "data", "geometry", "io", "prepare"},
    "plan": {"errors", "solve"},
    "job": {"data", "prepare", "recipe", "__init__"},
    "hounsfield": set(),
    "ct": {
        *(
            "data",
            "geometry",
            "hounsfield",
            "job",
            "learn",
            "nets",
            "errors",
            "operators",
            "plan",
            "prepare",
            "progress",
            "recipe",
            "solve",
        ),
    },
    "trust": {"data", "kernels", "nets", "solve", "recipe"},
    "check": {"data", "io", "nets", "ct", "recipe", "starting", "__init__"},
    "mri": {
        *("data", "errors", "job", "kernels", "learn", "nets", "operators", "plan", "prepare", "progress", "recipe"),
        *("solve", "trust"),
    },
    "pipeline": {"ct", "data", "io", "job", "mri", "prepare", "progress", "recipe"},
    "magnitude": {"data", "job", "operators", "prepare", "recipe", "solve"},
    "errors": set(),
    "ending": set(),
    "starting": set(),
    "pacs": {"errors", "io", "recipe"},
    "serve": {
        *("data", "errors", "io", "job", "magnitude", "mri", "pacs", "pipeline", "plan", "prepare", "recipe"),
        *("starting", "trust", "__init__"),
    },
    "accuracy": {
        *("ct", "data", "errors", "hounsfield", "io", "masks", "metrics", "operators", "pipeline", "prepare"),
        *("progress", "recipe", "simulation", "solve", "starting", "__init__"),
    },
    "doctor": {"kernels", "__init__"},
    "cli": {"*"},
    "verbs": {"*"},
    "__main__": {"*"},
    "__init__": {"*"},
}


def part_of(module: str) -> str:
    """The part that a module of the package belongs to: `recon.io.dicom` → `io`."""
    pieces = module.split(".")
    return pieces[1] if len(pieces) > 1 else "__init__"


def part_of_file(path: Path) -> str:
    """The part that a file of the package belongs to."""
    module = ".".join(path.relative_to(ROOT).with_suffix("").parts)
    return part_of(module if module.startswith("recon") else f"recon.{module}")


def part_imported(module: str) -> str:
    """The part that an imported module or name belongs to; names of the package itself are of `__init__`."""
    part = part_of(module)
    there = part == "kernels" or (ROOT / "recon" / part).is_dir() or (ROOT / "recon" / f"{part}.py").is_file()
    return part if there else "__init__"


def sources() -> list[Path]:
    return sorted(p for folder in ("recon", "kernels") for p in (ROOT / folder).rglob("*.py"))


def imports(path: Path) -> set[str]:
    """Names of the package's own modules that a file imports anywhere, but for those that serve type checking alone."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    skipped = {
        id(n)
        for block in ast.walk(tree)
        if isinstance(block, ast.If) and "TYPE_CHECKING" in ast.unparse(block.test)
        for n in ast.walk(block)
    }
    found: set[str] = set()
    for node in ast.walk(tree):
        if id(node) in skipped:
            continue
        if isinstance(node, ast.Import):
            found |= {a.name for a in node.names if a.name.split(".")[0] == "recon"}
        elif isinstance(node, ast.ImportFrom) and node.module and node.module.split(".")[0] == "recon":
            names = [a.name for a in node.names]
            found |= {f"recon.{n}" for n in names} if node.module == "recon" else {node.module}
    return found


@pytest.mark.parametrize("path", sources(), ids=lambda p: str(p.relative_to(ROOT)))
def test_imports_go_in_one_direction(path: Path) -> None:
    own = part_of_file(path)
    assert own in MAY_IMPORT, f"{path} is a new part of the package: say here what it may import"
    allowed = MAY_IMPORT[own] | {own}
    for module in imports(path):
        part = part_imported(module)
        assert "*" in allowed or part in allowed, f"{path} imports {module}; {own} may import {sorted(allowed)} only"


def test_no_part_may_import_what_it_does_not() -> None:
    """The table says how the house hangs together, not how it once did."""
    used: dict[str, set[str]] = {}
    for path in sources():
        used.setdefault(part_of_file(path), set()).update(map(part_imported, imports(path)))
    idle = {own: may - used[own] - {"*"} for own, may in MAY_IMPORT.items()}
    assert not {own: sorted(parts) for own, parts in idle.items() if parts}


@pytest.mark.parametrize("path", sources(), ids=lambda p: str(p.relative_to(ROOT)))
def test_no_file_has_two_subjects(path: Path) -> None:
    assert len(path.read_text(encoding="utf-8").splitlines()) <= 400


def test_no_function_is_too_long() -> None:
    """Sixty lines beneath its docstring fit a screen."""
    long = []
    for path in sources():
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.FunctionDef):
                first = node.body[1] if ast.get_docstring(node) and len(node.body) > 1 else node.body[0]
                if (node.end_lineno or 0) - first.lineno >= 60:
                    long.append(f"{path.name}: {node.name}")
    assert not long


def test_every_file_of_the_repository_is_a_file_itself() -> None:
    """A link points out of the repository on somebody's machine: one of the name of an environment stops make."""
    if not (ROOT / ".git").exists():
        pytest.skip("this is no checkout: the list of the repository's files is not here")
    listed = subprocess.run(["git", "ls-files", "-s"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    links = [line.split("\t")[1] for line in listed.splitlines() if line.startswith("120000")]
    assert listed
    assert not links


#: What only a verb at work may import.
HEAVY = {"numpy", "torch", "rich", "sigpy", "h5py", "scipy", "pydicom", "nibabel", "pydantic", "PIL"}


@pytest.mark.parametrize("statement", ["import recon", "import recon.cli; recon.cli.main(['--help'])"])
def test_starting_does_not_import_heavy_packages(statement: str) -> None:
    code = (
        "import sys\n"
        f"try:\n    {statement}\nexcept SystemExit:\n    pass\n"
        f"heavy = {HEAVY} & set(sys.modules)\n"
        "assert not heavy, heavy"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
