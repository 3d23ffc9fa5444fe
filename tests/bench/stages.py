"""A whole run: CPU seconds cold and repeated, and the wall seconds of its stages.

    python tests/bench/stages.py [--recipe sks_dog] [--before PATH [--only-this KEY=VALUE]] [KEY=VALUE ...]

KEY=VALUE changes the recipe, as in `dbrun run`; with --only-this the other checkout's recipe stays as it is. Each round
starts in an empty folder; the second run finds all results. CPU seconds are those of all threads, and of importing the
libraries. With --before the recipe must be one that both checkouts have.
"""

from __future__ import annotations

import json
import sys
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path

sys.path.extend([str(Path(__file__).parents[1]), str(Path(__file__).parents[2])])

from bench.rounds import ROOT, Numbers, compare_checkouts, comparing_arguments, cpu_seconds


def stage_seconds(folder: Path) -> Iterator[tuple[str, float]]:
    """(stage, wall seconds) of the stages that the runs in this project have run."""
    for path in sorted(folder.glob(".dbrun/runs/*/events.jsonl")):
        for line in path.read_text(encoding="utf-8").splitlines():
            event = json.loads(line)
            if event["event"] == "stage_finished":
                yield event["stage"], float(event["seconds"])


def measure(checkout: Path, recipe: str, changes: Sequence[str]) -> Numbers:
    """CPU seconds of a cold run and of one with nothing to do, and the wall seconds of each stage of the cold one."""
    words = (sys.executable, "-m", "dbrun", "run", str(checkout / "recipes" / f"{recipe}.yaml"), *changes)
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        cold = cpu_seconds(words, checkout, folder)
        stages = {f"{stage}, wall s": seconds for stage, seconds in stage_seconds(folder)}
        again = cpu_seconds(words, checkout, folder)
    return {"cold run, CPU s": cold, "second run, CPU s": again, **stages}


def main() -> None:
    """Measure in fresh processes, and print."""
    parser = comparing_arguments(__doc__)
    parser.add_argument("--recipe", default="sks_dog", help="name of a recipe in recipes/")
    parser.add_argument("--only-this", action="append", default=[], metavar="KEY=VALUE",
                        help="change the recipe of this checkout alone, such as by a key that the other lacks")
    parser.add_argument("changes", nargs="*", metavar="KEY=VALUE")
    given = parser.parse_args()

    def measured(checkout: Path) -> Numbers:
        own = given.only_this if checkout == ROOT else []
        return measure(checkout, given.recipe, [*given.changes, *own])

    compare_checkouts(measured, given)


if __name__ == "__main__":
    main()
