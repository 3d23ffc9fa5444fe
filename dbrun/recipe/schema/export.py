"""The recipe key `export`: the names of all export formats, and their description from the formats themselves."""

from __future__ import annotations

from typing import Any, Literal

from dbrun.formats.base import listed_formats
from dbrun.models.base import families

Export: Any = Literal[tuple(listed_formats())]
"""Name of an export format."""


def export_description() -> str:
    """Description of the key `export`: the formats, and which are written where the key is left out."""
    forms = listed_formats()
    token_formats = [name for name in forms if _carries_tokens_only(name)]
    others = [name for name in forms if name not in token_formats]
    small = [name for name in others if not forms[name].LARGE]
    large = [name for name in others if forms[name].LARGE]
    explained = {name: f"{name} ({form.SUMMARY})" for name, form in forms.items()}
    adapter_list = ", ".join(explained[name] for name in others)
    token_list = ", ".join(explained[name] for name in token_formats)
    return (f"Formats for adapters: {adapter_list}. For learned tokens: {token_list}. Left out: every one of "
            f"{', '.join(small)} that can carry the adapters, or {large[0]} where none can; and "
            f"{', '.join(token_formats)} where a token is learned.")


def _carries_tokens_only(name: str) -> bool:
    """Whether a format carries learned tokens but no component of any family."""
    form = listed_formats()[name]
    for family in families().values():
        if any(form.supports(family, component) for component in family.components):
            return False
    return True
