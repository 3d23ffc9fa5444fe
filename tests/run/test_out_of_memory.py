"""Where memory runs out, is what helps in that stage told, whichever way it ran out?"""

from pathlib import Path
from typing import Any

import pytest
from stub_world import go, stub_stages

from dbrun.errors import StageFailed, WorkerKilled
from dbrun.recipe.load import load_recipe
from dbrun.stages.base import stages
from dbrun.stages.support.memory_advice import stage_advice

ERRORS = {"GPU": RuntimeError("CUDA out of memory. Tried to allocate 2.00 GiB"), "Python": MemoryError(),
          "killed": WorkerKilled("process 1 of 2 was killed", fix="run the same command again")}
"""As torch and Python raise them, and as the launcher does for a process that the system killed."""


@pytest.mark.parametrize("kind", ERRORS)
def test_each_stage_that_runs_out_of_memory_names_what_helps_there(home: Path, kind: str) -> None:
    words = ("images.resolution=128",)
    recipe = load_recipe(home / "r.yaml", words).recipe
    told = set()
    # in the order of a run: those before it have a result, it has none
    for name in ("load", "adapt", "generate-priors", "preprocess", "train", "export"):
        stub, real = stub_stages()[name], stages()[name]

        def run(self: object, job: object) -> None:
            raise ERRORS[kind]

        def advise(self: object, recipe: Any, device: str, real: Any = real) -> tuple[str, ...]:
            return tuple(real.memory_advice(recipe, device))

        failing = type("Failing", (type(stub),), {"run": run, "memory_advice": advise})()
        with pytest.raises(StageFailed) as caught:
            go(home, *words, stages={**stub_stages(), name: failing})
        fix, advice = caught.value.fix or "", stage_advice(real, recipe, "cpu")
        assert advice in fix
        assert ("run the same command again; if memory ran out: " in fix) == (kind == "killed")
        told.add(advice)
    assert len(told) == len(stub_stages())
