"""How often does a run read each component of its base?"""

from collections import Counter
from pathlib import Path

import pytest
import torch
from projects import Project, lay_out

from dbrun.events import Event, StageStarted
from dbrun.models.base import families
from dbrun.recipe.load import load_recipe
from dbrun.resolve.sources import resolve_sources
from dbrun.run.runner import execute
from dbrun.store.store import Store

SHORT = ("prior.count=1", "prior.steps=1", "prior.guidance=1.0", "train.batch_size=1", "samples.steps=1",
         "samples.guidance=1.0", "samples.prompts=[a dog]")
EVERY_FORMAT = "export=[component, diffusers, kohya, merged, peft, single_file]"
ONCE_A_STAGE = {"generate-priors": 1, "preprocess": 1, "export": 1}


class Observed:
    """A run in this process.

    loads: (stage, component, dtype) → how often it was read from the base; read: bytes of the files that were read.
    """

    def __init__(self, project: Project, words: tuple[str, ...], monkeypatch: pytest.MonkeyPatch) -> None:
        self.loads: Counter[tuple[str, str, torch.dtype]] = Counter()
        self.read = 0
        self._stage, self._base = "", project.folder / "base"
        self._count_loads(monkeypatch)
        # paths in a recipe are relative to it, but the store and outputs are given
        folder = project.folder
        loaded, store = load_recipe(folder / "tiny.yaml", words), Store(folder / "observed")
        store.prepare()
        resolved = resolve_sources(loaded, store)
        execute(loaded, resolved, store, emit=self._note, outputs=folder / "observed-outputs")

    def of(self, component: str, dtype: torch.dtype = torch.float32) -> dict[str, int]:
        """Stage → how often it read the component in this dtype."""
        return {stage: count for (stage, name, read_as), count in self.loads.items()
                if name == component and read_as == dtype}

    @property
    def base_bytes(self) -> int:
        """Bytes of all weight files of the base."""
        return sum(path.stat().st_size for path in self._base.glob("*/*.safetensors"))

    def _note(self, event: Event) -> None:
        if isinstance(event, StageStarted):
            self._stage = event.stage

    def _count_loads(self, monkeypatch: pytest.MonkeyPatch) -> None:
        kind = type(families()["sd"])
        load = kind.load_component

        def counted(family: object, folder: Path, name: str, *, dtype: torch.dtype, **options: object) -> object:
            # a format that is read back is no base
            if folder.resolve() == self._base.resolve():
                self.loads[self._stage, name, dtype] += 1
                self.read += sum(path.stat().st_size for path in (folder / name).glob("*.safetensors"))
            return load(family, folder, name, dtype=dtype, **options)

        monkeypatch.setattr(kind, "load_component", counted)


def test_each_component_is_read_once_a_stage_and_the_denoiser_once_a_run(tmp_path: Path,
                                                                         monkeypatch: pytest.MonkeyPatch) -> None:
    seen = Observed(lay_out(tmp_path / "project"), (*SHORT, "train.steps=1", EVERY_FORMAT), monkeypatch)
    assert seen.of("unet") == {"generate-priors": 1}
    assert seen.of("vae") == seen.of("text_encoder") == ONCE_A_STAGE
    assert seen.read <= 2.5 * seen.base_bytes
