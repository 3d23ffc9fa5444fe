"""The stub stages, of which several processes share some; a program that runs them as `dbrun run` would."""

import json
import os
import sys
import time
from functools import partial
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent))

import stub_world
from stub_world import note_item, resolved, sha, stub_stages

from dbrun.errors import DbrunError, StageFailed
from dbrun.plan.planner import ALL_STAGES, Scope, make_scope
from dbrun.recipe.load import load_recipe
from dbrun.run.runner import execute
from dbrun.run.signals import stop_signals
from dbrun.stages.base import StageContext
from dbrun.stages.support.distribute import run_distributed
from dbrun.store.store import Store
from dbrun.workers.env import read_distributed_env
from dbrun.workers.launcher import WorkerGroup
from dbrun.workers.worker import run_worker


class Priors(stub_world.Priors):
    multi_process = True

    def work(self, job: StageContext[Any]) -> None:
        def make(i: int, folder: Path) -> None:
            if os.environ.get("STUB_FAIL") == str(job.process_group.rank):
                raise StageFailed(f"picture {i} came out black", fix="draw another")
            note_item(f"prior {i} by {job.process_group.rank}")
            (folder / "image").write_text(sha("prior", job.params.prompt, i))

        def item(i: int) -> Path:
            return job.items.get({"prompt": job.params.prompt, "index": i}, partial(make, i)) / "image"

        run_distributed(job, [[partial(item, i)] for i in range(job.params.count)], "pictures")
        for i in range(0 if job.process_group.rank else job.params.count):
            (job.out / f"{i:03}").write_bytes(item(i).read_bytes())


class Train(stub_world.Train):
    """The first process trains; the others wait for the end of it as those of a real training would."""

    multi_process = True

    def work(self, job: StageContext[Any]) -> None:
        if job.process_group.rank == 0:
            super().work(job)
        while job.process_group.rank and not (job.work / f"step-{job.params.steps}").exists():
            job.process_group.check_alive()
            time.sleep(0.01)


def watched(job: StageContext[Any], done: int, total: int, unit: str) -> None:
    """Every step is one that all processes make together."""
    time.sleep(float(os.environ.get("STUB_STEP", "0")))
    job.process_group.check_alive()
    stub_world_progress(job, done, total, unit)


stub_world_progress = StageContext.progress
StageContext.progress = watched  # type: ignore[assignment, method-assign]


def main(home: Path, *overrides: str) -> int:
    stages, here = {**stub_stages(), **{c.NAME: c() for c in (Priors, Train)}}, read_distributed_env(os.environ)
    if here and here.rank:
        other = ["subject.class_prompt=a cat"] if "STUB_OTHER" in os.environ else []

        def plan() -> Scope:
            return make_scope(load_recipe(home / "r.yaml", [*overrides, *other]).recipe, resolved(home),
                              Store(home / "store"), ALL_STAGES, stages)

        return run_worker(here, plan)
    loaded = load_recipe(home / "r.yaml", overrides)
    worker_group = WorkerGroup(int(os.environ.get("STUB_SIZE", "2")), (str(home), *overrides),
                               program=(sys.executable, __file__))
    with stop_signals() as cancel:
        done = execute(loaded, resolved(home), Store(home / "store"), emit=lambda event: None, overrides=overrides,
                       outputs=home / "outputs", stages=stages, worker_group=worker_group, cancel=cancel)
    print(json.dumps(done.ran))
    return 0


if __name__ == "__main__":
    try:
        sys.exit(main(Path(sys.argv[1]), *sys.argv[2:]))
    except DbrunError as error:
        print(error, file=sys.stderr)
        sys.exit(error.exit_code)
