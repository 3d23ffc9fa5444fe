"""Layers that other programs silently ignore, for each format of an export, and the file to take there instead."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from dbrun.adapters.base import Adapter
from dbrun.formats.base import formats
from dbrun.models.base import Family

OTHER_PROGRAMS_FORMAT = "kohya"
"""The format of which ComfyUI, Forge and A1111 read every layer."""
MERGED_INSTEAD = "`dbrun merge FILE -o OUT --how full` is for them"
"""What to take where these programs read an adapter of this type wrongly in every format."""


def passed_over(names: Sequence[str], family: Family, adapters: Mapping[str, Adapter],
                layers: Mapping[str, Sequence[str]], advice: str | None) -> tuple[str, ...]:
    """A sentence for each format in whose files a program ignores a layer; the format's name comes first.

    names: of the formats; layers: component -> full names of the layers that its adapter is on; advice: what to take
    instead of a file of another format than kohya's, a clause, None where nothing can be.
    """
    sentences = []
    for name in names:
        form = formats()[name]
        clauses = [clause for component, adapted in layers.items() if form.supports(family, component)
                   for clause in form.passed_over(family, component, adapters[component], adapted)]
        if not clauses:
            continue
        text = f"{name}: {'; '.join(clauses)}, without an error"
        if advice is not None and name != OTHER_PROGRAMS_FORMAT:
            text += f"; {advice}"
        sentences.append(text)
    return tuple(sentences)
