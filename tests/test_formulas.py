"""Every formula of the documentation becomes MathML, and no page of the site asks another machine for anything."""

from __future__ import annotations

import importlib.util
import re
from pathlib import Path
from types import ModuleType
from xml.etree import ElementTree

import pytest

ROOT = Path(__file__).resolve().parent.parent
PAGES = sorted(p for p in (ROOT / "docs").rglob("*.md"))
FORMULA = re.compile(r"\\\((.+?)\\\)|\\\[(.+?)\\\]", re.DOTALL)


@pytest.fixture(scope="module")
def hook() -> ModuleType:
    pytest.importorskip("latex2mathml")
    spec = importlib.util.spec_from_file_location("mathml", ROOT / "docs" / "mathml.py")
    assert spec
    assert spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_every_formula_of_the_pages_becomes_mathml(hook: ModuleType) -> None:
    found = [(page, m[1] or m[2]) for page in PAGES for m in FORMULA.finditer(page.read_text(encoding="utf-8"))]
    assert len(found) > 200
    for page, latex in found:
        root = ElementTree.fromstring(hook.mathml(latex))
        assert root.tag.endswith("math"), (page, latex)
        assert not root.findall(".//{*}merror"), (page, latex)


def test_a_fraction_and_a_root_are_what_they_say(hook: ModuleType) -> None:
    root = ElementTree.fromstring(hook.mathml(r"\frac{\sqrt N}{2}", block=True))
    assert root.get("display") == "block"
    (fraction,) = root.iter("{*}mfrac".replace("{*}", "{http://www.w3.org/1998/Math/MathML}"))
    above, below = fraction
    assert ["".join(part.itertext()) for part in (above, below)] == ["N", "2"]
    assert above.find(".//{*}msqrt") is not None or above.tag.endswith("msqrt")


def test_the_name_of_a_function_is_separated_from_its_argument(hook: ModuleType) -> None:
    assert '<mi>cos</mi><mspace width="0.167em"/><mi>' in hook.mathml(r"x \cos \theta")
    assert "mspace" not in hook.mathml(r"\cos(x)")
    assert "mspace" not in hook.mathml(r"\sin^2(x)")


def test_a_command_that_has_no_mathml_ends_the_build(hook: ModuleType) -> None:
    with pytest.raises(ValueError, match=r"\\nonsense of the formula"):
        hook.mathml(r"\nonsense x")


def test_formulas_of_a_page_are_replaced_in_place(hook: ModuleType) -> None:
    page = r'<p>a <span class="arithmatex">\(x &lt; 1\)</span> b</p><div class="arithmatex">\[y\]</div>'
    made = hook.on_page_content(page, page=None)
    assert re.fullmatch(r"<p>a <span [^>]*><math .*</math></span> b</p><div [^>]*><math .*</math></div>", made)
    assert 'display="inline"' in made
    assert 'display="block"' in made
    assert "\\(" not in made
    assert "&lt;" in made or "&#x0003C;" in made


def test_the_site_names_no_other_machine_for_scripts_fonts_or_styles() -> None:
    settings = (ROOT / "mkdocs.yml").read_text(encoding="utf-8")
    assert "http" not in settings
    assert "font: false" in settings


def test_the_pages_link_to_files_since_the_readme_says_to_open_one() -> None:
    assert "`site/index.html`" in (ROOT / "README.md").read_text(encoding="utf-8")
    assert "use_directory_urls: false" in (ROOT / "mkdocs.yml").read_text(encoding="utf-8")
