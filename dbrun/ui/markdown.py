"""Plans and runs as Markdown, for the summary of a CI job and for comments; words of users are escaped."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from dbrun.disk_space import format_bytes
from dbrun.plan.planner import Plan
from dbrun.secrets import redact_secrets
from dbrun.store.runs import Run
from dbrun.ui.history import outcome_text
from dbrun.ui.plan import duration_text
from dbrun.ui.terminal import format_ago

if TYPE_CHECKING:
    from dbrun.plan.estimate import Estimate

ACTIVE = re.compile(r"([\\`*_{}\[\]()#!|~$<>&]|^[-+])")
"""Characters that may begin markup."""
SOUGHT = re.compile(r"(@|#(?=\d)|:(?=//))")
"""Characters that GitHub looks for in the finished page, where a backslash is gone: mentions, issues, addresses."""

CODE = re.compile(r"(?<!`)`([^`<>&@]+)`(?!`)")
"""Code between single backticks, as messages write it; none that could be taken for HTML or a mention."""


def escape_markdown(text: str) -> str:
    """Text that Markdown shows as it is, on one line: no markup, no HTML, no mention of a user, no secret."""
    # secrets first: their characters are changed below, and they would not be found any more
    return _escape(" ".join(redact_secrets(text).split()))


def escape_sentence(text: str) -> str:
    """A sentence of dbrun's own with its `code` as code, the rest as `escape_markdown` leaves it."""
    # hidden before the text is cut: a secret may hold a backtick
    plain = " ".join(redact_secrets(text).split())
    pieces, end = [], 0
    for code in CODE.finditer(plain):
        # nothing in code is markup
        pieces += [_escape(plain[end:code.start()]), code[0]]
        end = code.end()
    return "".join([*pieces, _escape(plain[end:])])


def _escape(plain: str) -> str:
    escaped = ACTIVE.sub(r"\\\1", plain)
    return SOUGHT.sub(r"\1&#8203;", escaped)


def plan_markdown(name: str, plan: Plan, known: Mapping[str, Estimate], lines: Sequence[str], warnings: Sequence[str],
                  drifted: Sequence[str]) -> str:
    """A plan: its stages as a table, then the forecast, warnings and the differences from the lock.

    known: stage → its estimate; lines: of the forecast.
    """
    blocks = [f"### Plan of {escape_markdown(name)}", ""]
    rows = [[stage.name, f"**{stage.status.upper()}**", duration_text(known.get(stage.name)),
             escape_markdown(str(stage.reason))] for stage in plan.stages]
    blocks += _table(["stage", "", "time", "why"], rows)
    if lines:
        blocks += ["", *_list(lines)]
    if warnings:
        blocks += ["", "Warnings:", "", *_list(warnings)]
    if drifted:
        blocks += ["", "**The recipe points at something else than its lock:**", "", *_list(drifted)]
    return "\n".join(blocks)


def runs_markdown(rows: Sequence[tuple[Run, int, float]]) -> str:
    """Runs as a table. rows: runs with the bytes of their results and their start, in seconds since 1970."""
    cells = [[escape_markdown(run.id), format_ago(start), f"**{run.state}**", format_bytes(size),
              escape_markdown(outcome_text(run))] for run, size, start in rows]
    return "\n".join(["### Runs", "", *_table(["run", "began", "state", "keeps", "what it did"], cells)])


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    lines = [head, ["---"] * len(head), *rows]
    return [f"| {' | '.join(cells)} |" for cells in lines]


def _list(texts: Sequence[str]) -> list[str]:
    return [f"- {escape_sentence(text)}" for text in texts]
