"""What a recipe may say of the files that leave: the names of all export formats, explained by the formats."""

from __future__ import annotations

from typing import Any, Literal

from dbrun.formats.base import listed_formats
from dbrun.models.base import families

Export: Any = Literal[tuple(listed_formats())]
"""The name of a format."""


def export_description() -> str:
    """What `export` takes, and what is written where it is left out."""
    forms = listed_formats()
    word_formats = [name for name, form in forms.items() if _carries_words_only(name)]
    others = [name for name in forms if name not in word_formats]
    small = [name for name in others if not forms[name].LARGE]
    large = [name for name in others if forms[name].LARGE]
    listed = ", ".join(f"{name} ({forms[name].SUMMARY})" for name in others)
    words = ", ".join(f"{name} ({forms[name].SUMMARY})" for name in word_formats)
    return (f"{listed}; and {words}. Left out, all that fit of {', '.join(small)}, or else {large[0]}; and "
            f"{', '.join(word_formats)} where a trigger learns.")


def _carries_words_only(name: str) -> bool:
    form = listed_formats()[name]
    return not any(form.supports(family, component) for family in families().values()
                   for component in family.components)
