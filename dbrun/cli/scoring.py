"""The work of the verb `evaluate`: scores of adapters, as a table or as JSON."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path

from dbrun.errors import ExpectationMissed
from dbrun.events import Event, Progress
from dbrun.ui.terminal import print_result


def show_scores(words: Sequence[str], like: Path, *, as_json: bool) -> None:
    """Print the scores of adapters. words: ADAPTER[:WEIGHT]; like: the recipe that says how.

    Raises UsageError for what is no adapter, and ExpectationMissed where one is below what the recipe expects.
    """
    from dbrun.api.request import make_request, read_request
    from dbrun.ui.progress import make_reporter
    from dbrun.ui.scores import scores_table
    from dbrun.use.adapter_files import find_adapter
    from dbrun.use.score import score_adapters

    # before torch is imported, as in `run_recipe`
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    files = [find_adapter(word) for word in words]
    request = make_request(like)
    store = request.open_store()
    with closing(make_reporter(as_json=False)) as reporter:
        def show_progress(event: Event) -> None:
            if isinstance(event, Progress):
                reporter(event)

        loaded, resolved = read_request(request, store, show_progress)
        scored = score_adapters(files, loaded, resolved, store, show_progress)
    if as_json:
        rows = [{"adapter": str(one.place), "name": one.label, "scores": one.scores,
                 "expectations": [outcome.to_json() for outcome in one.outcomes]} for one in scored]
        print_result(json.dumps({"format_version": 1, "recipe": loaded.recipe.name, "adapters": rows}, indent=1))
    else:
        print_result(scores_table({one.label: one.summaries for one in scored}))
    missed = [f"\n  {one.label}: {outcome.message}" for one in scored for outcome in one.outcomes if not outcome.met]
    if missed:
        raise ExpectationMissed(f"below what {like} expects:{''.join(missed)}",
                                fix="take another adapter, or change `evaluate.expect` in the recipe")
