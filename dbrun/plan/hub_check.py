"""The question to the Hub, before a run, about what it would fetch: how large it is, and whether this login gets it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from dbrun.errors import DbrunError, HubUnreachable
from dbrun.events import Note
from dbrun.models.base import families
from dbrun.plan.planner import BASE_STAGE, Plan, Scope, Status
from dbrun.resolve.base import parse_hub_identity, published_base
from dbrun.stages.sources import BaseSource
from dbrun.stages.support.tokenizer_links import hub_tokenizers


def ask_hub(scope: Scope, plan: Plan) -> Scope:
    """The scope with the Hub's answer about a base that a run would fetch: a note, or why the base is unavailable.

    Writes nothing. Without a network it takes up to ten seconds, and the note says so.
    """
    resolved = scope.resolved
    question = _question(resolved.sources.base)
    # `load` may be cached, and nothing to do
    fetches = any(stage.name == BASE_STAGE and stage.status is Status.RUN for stage in plan.stages)
    if question is None or not fetches or resolved.unavailable_reason is not None:
        return scope
    try:
        text = question()
    except HubUnreachable as error:
        note = Note("base", f"{error.message}; so {_usual_download(resolved.sources.base)}", "warning")
    except DbrunError as error:
        refused = replace(resolved, unavailable_reason=error.message, unavailable_fix=error.fix or "")
        return replace(scope, resolved=refused)
    else:
        if text is None:
            return scope
        note = Note("base", text)
    return replace(scope, resolved=replace(resolved, notes=(*resolved.notes, note)))


def _usual_download(base: BaseSource) -> str:
    """What is known of a base's download without the Hub."""
    published = published_base(base)
    if published is None:
        return "the size of the download is not known"
    return f"the download is not known exactly: about {published.download} GB"


def _question(base: BaseSource) -> Callable[[], str | None] | None:
    """Call that asks the Hub about what is to be fetched of a base; None where everything is here."""
    if base.folder is not None:
        return None
    family, at_hub, tokenizers = families()[base.family], parse_hub_identity(base.identity), None
    if base.incomplete is not None:
        tokenizers = hub_tokenizers(base.identity)

    def ask() -> str | None:
        if at_hub is not None:
            from dbrun.stages.load import describe_base_download

            return describe_base_download(*at_hub, family, base.variant)
        from dbrun.stages.support.tokenizer_links import describe_tokenizers_download

        assert tokenizers is not None, "else nothing is asked"
        return describe_tokenizers_download(*tokenizers, family)

    return ask if at_hub or tokenizers else None
