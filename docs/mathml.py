"""Formulas of the pages as MathML, which browsers show by themselves: the site fetches nothing from elsewhere."""

from __future__ import annotations

import html
import re
from typing import Any

from latex2mathml.converter import convert

#: What pymdownx.arithmatex leaves of a formula, in a line and by itself.
_FORMULA = re.compile(r'<(span|div) class="arithmatex">\\([(\[])(.*?)\\[)\]]</\1>', re.DOTALL)
#: The name of a function, where its argument follows without a bracket.
_FUNCTION = re.compile(
    r"(?<!<msup>)(?<!<msub>)(<mi>(?:arg|cos|exp|ln|log|sin|sinc)</mi>)(?=<m(?:i|n|frac|sqrt|sub|sup)\b)"
)


def on_page_content(content: str, **_: Any) -> str:
    """MkDocs' event: the HTML of a page, with its formulas as MathML. Raises ValueError as `mathml`."""
    return _FORMULA.sub(_shown, content)


def mathml(latex: str, *, block: bool = False) -> str:
    """A formula in LaTeX as MathML; raises ValueError for a command that has no MathML here."""
    found = convert(latex, display="block" if block else "inline")
    if left := re.findall(r"\\[A-Za-z]+", found):
        raise ValueError(f"{left[0]} of the formula {latex!r} has no MathML; use \\operatorname{{…}}")
    return _FUNCTION.sub(r'\1<mspace width="0.167em"/>', found)


def _shown(m: re.Match[str]) -> str:
    # Letters of formulas are no words: the search would find them everywhere.
    return f'<{m[1]} class="arithmatex" data-search-exclude>{mathml(html.unescape(m[3]), block=m[1] == "div")}</{m[1]}>'
