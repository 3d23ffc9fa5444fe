"""Does no stage write more than it said it could, and does it say no more than is sensible?"""

import json
import shutil
from collections.abc import Mapping
from pathlib import Path

import pytest
from projects import STAGES, Project, lay_out

from dbrun.recipe.load import load_recipe
from dbrun.resolve.sources import resolve_sources
from dbrun.run import stage_runner
from dbrun.run.runner import execute
from dbrun.store.store import Store

CHANGES = {
    "as it is": [],
    "large": ["adapt.denoiser={type: loha, rank: 8, targets: all}", "train.keep=1", "train.ema={}", "export=[peft]",
              "images.crop=random", "images.crops=3", "images.flip=true",
              "adapt.text_encoder={type: lora, rank: 4, dora: true}"],
    "whole": ["adapt.denoiser={type: full, targets: all}", "export=[component, merged]"],
}


def used(folder: Path) -> int:
    return sum(p.stat().st_size for p in folder.rglob("*") if p.is_file()) if folder.exists() else 0


SLOW = [pytest.param(changes, marks=pytest.mark.slow) for changes in ("large", "whole")]


@pytest.mark.parametrize("changes", ["as it is", *SLOW])
def test_what_a_stage_writes_fits_into_what_it_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
                                                    changes: str) -> None:
    project = lay_out(tmp_path)
    monkeypatch.chdir(project.folder)
    said, wrote = told(project, CHANGES[changes], monkeypatch)
    assert set(said) >= STAGES
    for stage, need in said.items():
        assert wrote[stage] <= need, f"{stage} wrote {wrote[stage]} bytes and said {need}"
        assert need <= 30 * wrote[stage] + 20 * 2**20, f"{stage} said {need} bytes and wrote {wrote[stage]}"


def told(project: Project, changes: list[str], monkeypatch: pytest.MonkeyPatch,
         ) -> tuple[Mapping[str, int], Mapping[str, int]]:
    """What each stage said it could need, and what the store grew by while it ran."""
    loaded, store = load_recipe(project.folder / "tiny.yaml", changes), Store(project.folder / ".dbrun")
    said: dict[str, int] = {}
    before: dict[str, int] = {}
    wrote: dict[str, int] = {}

    def asked(folder: Path, called: str, stage: str, need: int, fix: str) -> None:
        said[stage], before[stage] = need, used(store.root)

    def listen(event: object) -> None:
        if type(event).__name__ == "StageFinished":
            wrote[event.stage] = used(store.root) - before[event.stage]

    monkeypatch.setattr(stage_runner, "check_free_space", asked)
    execute(loaded, resolve_sources(loaded, store), store, emit=listen)
    wrote["export"] += used(project.folder / "outputs")
    shutil.rmtree(project.folder / "outputs")
    assert json.loads(next(store.runs.iterdir()).joinpath("wants.json").read_text())["keys"]
    return said, wrote
