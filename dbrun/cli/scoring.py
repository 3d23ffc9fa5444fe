"""The work of the verb `evaluate`: scores of adapters, as a table or as JSON."""

from __future__ import annotations

import json
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path

from dbrun.errors import ExpectationMissed
from dbrun.events import Event, Progress
from dbrun.ui.terminal import print_result


def show_scores(words: Sequence[str], like: Path, *, as_json: bool) -> bool:
    """Print the scores of adapters; returns whether all are what the recipe expects.

    words: ADAPTER[:WEIGHT]; like: the recipe that says how. Raises UsageError for what is no adapter, and, unless
    as_json, ExpectationMissed where one is below what the recipe expects.
    """
    from dbrun.api.scoring import evaluate
    from dbrun.ui.progress import make_reporter
    from dbrun.ui.scores import scores_table
    from dbrun.workers.env import let_idle_threads_sleep

    let_idle_threads_sleep()
    with closing(make_reporter(as_json=False)) as reporter:
        def show_progress(event: Event) -> None:
            if isinstance(event, Progress):
                reporter(event)

        scored = evaluate(words, like, on_event=show_progress)
    if as_json:
        print_result(json.dumps({"format_version": 1, "adapters": [one.to_json() for one in scored]}, indent=1))
    else:
        print_result(scores_table({one.label: one.summaries for one in scored}))
    missed = [f"\n  {one.label}: {outcome.message}" for one in scored for outcome in one.outcomes if not outcome.met]
    # as JSON they stand in the output, which must be one document
    if missed and not as_json:
        raise ExpectationMissed(f"below what {like} expects:{''.join(missed)}",
                                fix="take another adapter, or change `evaluate.expect` in the recipe")
    return not missed
