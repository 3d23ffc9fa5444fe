"""Explanation of a stage's cache key: what it is made of, and what differs from the nearest earlier key."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from dbrun.plan.cache_key import StageKey
from dbrun.plan.diff_keys import format_value, key_changes
from dbrun.plan.history import last_key_documents
from dbrun.plan.planner import RECENT_RESULTS, Scope, StagePlan, Status, plan_scope
from dbrun.plan.sweep_plan import placeholder_digests
from dbrun.store.traces import Trace

KEY_PARTS = ("version", "params", "inputs", "numerics", "libraries")
"""Fields of a key document that can differ between two keys of a stage."""


@dataclass(frozen=True)
class KeyLine:
    """One value that a key is made of. part: one of KEY_PARTS; name: dotted name in it; now, before: None if left out.

    A feature that is switched off is left out.
    """

    part: str
    name: str
    now: str | None
    before: str | None

    @property
    def is_changed(self) -> bool:
        """Whether the value differs from the earlier key's."""
        return self.now != self.before


@dataclass(frozen=True)
class Explanation:
    """A stage's key and its lines. key: None while the result of a stage above is unknown.

    earlier_document: the key document that it is compared with, if there is one; trace: record of the cached result.
    """

    plan: StagePlan
    key: str | None
    lines: tuple[KeyLine, ...]
    earlier_document: Mapping[str, object] | None
    trace: Trace | None

    @property
    def unchanged_inputs(self) -> tuple[str, ...]:
        """Names of the stages above whose results are the same as before."""
        return tuple(line.name for line in self.lines if line.part == "inputs" and not line.is_changed)

    def to_json(self) -> dict[str, object]:
        """Explanation as JSON data."""
        compared = self.earlier_document is not None
        parts = [{"part": line.part, "name": line.name, "now": line.now, "before": line.before,
                  "changed": compared and line.is_changed} for line in self.lines]
        return {"format_version": 1, "stage": self.plan.name, "status": self.plan.status.value,
                "reason": str(self.plan.reason), "key": self.key, "unchanged_inputs": list(self.unchanged_inputs),
                "compared_with_earlier": compared, "parts": parts}


def explain(scope: Scope, name: str) -> Explanation:
    """Explain the key of one stage of a scope. name: one of the scope's selected stages."""
    plan = plan_scope(scope)
    stage = next(one for one in plan.stages if one.name == name)
    pending = {one.name for one in plan.stages if one.status is not Status.HIT}
    stage_key = scope.stage_key(name, placeholder_digests(scope, plan))
    trace = scope.store.traces.read(name, stage_key.key) if stage.status is Status.HIT else None
    earlier = trace.document if trace else _nearest_document(stage_key, scope)
    waiting = tuple(above for above in scope.selected_stages.needs[name] if above in pending)
    now = dict(_key_leaves(stage_key.document))
    # these inputs are placeholders, which nobody should take for digests
    now |= {("inputs", above): f"not known before {above} has run" for above in waiting}
    before = dict(_key_leaves(earlier)) if earlier is not None else {}
    order = dict.fromkeys((*now, *before))
    lines = tuple(KeyLine(part, inner, now.get((part, inner)), before.get((part, inner))) for part, inner in order)
    key = None if waiting else stage_key.key
    return Explanation(stage, key, lines, earlier, trace)


def _nearest_document(stage_key: StageKey, scope: Scope) -> Mapping[str, object] | None:
    """Key document to compare with: of the last run of this recipe's name, else the one with the fewest changes."""
    stage = stage_key.stage.NAME
    last = list(last_key_documents(scope.store, scope.recipe.name, stage))
    documents = last or [trace.document for trace in scope.store.traces.recent(stage, RECENT_RESULTS)]
    return min(documents, key=lambda document: len(key_changes(stage_key, document)), default=None)


def _key_leaves(document: Mapping[str, object]) -> Iterator[tuple[tuple[str, str], str]]:
    for part in KEY_PARTS:
        yield from _leaves(part, "", document.get(part))


def _leaves(part: str, name: str, value: object) -> Iterator[tuple[tuple[str, str], str]]:
    """Yield ((part, dotted name), text) of every innermost value that is not None."""
    if isinstance(value, dict):
        for inner, below in value.items():
            dotted = f"{name}.{inner}" if name else inner
            yield from _leaves(part, dotted, below)
    elif value is not None:
        yield (part, name), _summary(value)


def _summary(value: object) -> str:
    from dbrun.store.canonical import digest

    # a list of pictures can be hundreds of lines long
    if isinstance(value, list) and value and all(isinstance(one, dict) for one in value):
        return f"{len(value)} entries, digest {digest(value)[:10]}…"
    return format_value(value) or ""
