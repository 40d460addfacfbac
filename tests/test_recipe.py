from __future__ import annotations

from pathlib import Path

import pytest

from recon import recipe as recipes
from recon.data import ReconError
from recon.recipe import Recipe


def test_a_recipe_printed_as_toml_reads_back_equal(tmp_path: Path) -> None:
    path = tmp_path / "site.toml"
    made = recipes.parse({"name": "knee", "solve": {"method": "cs", "l1": 2, "grappa_kernel": [1, 3, 5]}})
    path.write_text(recipes.to_toml(made))
    assert recipes.load(path) == made
    assert made.solve.l1 == 2.0
    assert made.solve.grappa_kernel == (1, 3, 5)


def test_what_a_file_does_not_name_keeps_its_default(tmp_path: Path) -> None:
    path = tmp_path / "r.toml"
    path.write_text("[solve]\nmethod = 'tv'\n")
    assert recipes.load(path) == recipes.with_method(Recipe(), "tv")


@pytest.mark.parametrize(
    ("table", "says"),
    [
        ({"solve": {"methd": "cs"}}, "did you mean solve.method?"),
        ({"prepar": {}}, "did you mean prepare?"),
        ({"solve": {"method": "magic"}}, "solve.method = 'magic'"),
        ({"solve": {"l2": -1}}, "solve.l2"),
        ({"solve": {"l2": float("nan")}}, "solve.l2"),
        ({"solve": 3}, "must be a section"),
        ({"prepare": {"virtual_coils": 0}}, "prepare.virtual_coils"),
        ({"output": {"parts": []}}, "output.parts"),
        ({"output": {"parts": ["phase", "phase"]}}, "each only once"),
        ({"prepare": {"map_sets": 7}}, "prepare.map_sets"),
        ({"trust": {"fallback": "no"}}, "trust.fallback = 'no'"),
        ({"output": {"complex": 1}}, "output.complex = 1: input should be a valid boolean"),
        ({"solve": {"l2": "4"}}, "solve.l2 = '4': input should be a valid number"),
        ({"solve": {"iterations": True}}, "solve.iterations = True: input should be a valid integer"),
        ({"ct": {"strength": "0.5"}}, "ct.strength = '0.5'"),
    ],
)
def test_a_wrong_key_or_value_is_named_with_its_cure(table: dict[str, object], says: str) -> None:
    with pytest.raises(ReconError) as error:
        recipes.parse(table)
    assert says in str(error.value)


def test_a_missing_or_broken_file_says_how_to_get_one(tmp_path: Path) -> None:
    with pytest.raises(ReconError, match="recon recipe"):
        recipes.load(tmp_path / "absent.toml")
    broken = tmp_path / "broken.toml"
    broken.write_text("[solve\n")
    with pytest.raises(ReconError, match="not a TOML file"):
        recipes.load(broken)


def test_a_file_that_begins_with_the_mark_of_windows_is_read(tmp_path: Path) -> None:
    (tmp_path / "my.toml").write_bytes(b"\xef\xbb\xbf" + b'[solve]\nmethod = "cs"\n')
    assert recipes.load(tmp_path / "my.toml").solve.method == "cs"


def test_a_folder_in_place_of_a_file_is_reported_as_such(tmp_path: Path) -> None:
    with pytest.raises(ReconError, match="cannot be read: Is a directory; give a readable TOML file"):
        recipes.load(tmp_path)


def test_the_hash_follows_what_decides_the_picture_and_not_the_name() -> None:
    assert recipes.digest(Recipe(name="a")) == recipes.digest(Recipe(name="b"))
    assert recipes.digest(Recipe()) != recipes.digest(recipes.with_method(Recipe(), "cs"))
    each = (
        {"prepare": {"virtual_coils": 8}}, {"solve": {"seed": 1}}, {"ct": {"coarse": 1.0}}, {"trust": {"added": 0.2}},
        {"images": {"denoise": 0.5}}, {"output": {"parts": ["phase", "magnitude"]}},
        {"output": {"parts": ["magnitude", "phase"]}},
    )  # fmt: skip
    assert len({recipes.digest(recipes.parse(one)) for one in ({}, *each)}) == 1 + len(each)


def test_another_method_leaves_all_else_as_it_was() -> None:
    before = recipes.parse({"name": "a", "solve": {"l2": 2.0, "iterations": 7}, "prepare": {"virtual_coils": 8}})
    after = recipes.with_method(before, "sense")
    assert (after.solve.method, after.solve.l2, after.solve.iterations) == ("sense", 2.0, 7)
    assert (after.name, after.prepare) == ("a", before.prepare)
