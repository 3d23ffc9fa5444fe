"""How often does a run read each component of its base, and how much memory does each stage take for it?"""

from collections import Counter
from pathlib import Path

import pytest
import torch
from projects import Project, lay_out

from dbrun.events import Event, StageFinished, StageStarted
from dbrun.models.base import families
from dbrun.plan.memory import count_stages
from dbrun.plan.planner import ALL_STAGES, make_scope
from dbrun.recipe.load import load_recipe
from dbrun.resolve.sources import resolve_sources
from dbrun.run.runner import execute
from dbrun.store.store import Store

STAGES = ("adapt", "generate-priors", "preprocess", "train", "export")


class Observed:
    """A run in this process: loads by (stage, component), and each stage's measured peak in bytes."""

    def __init__(self, project: Project, words: tuple[str, ...], monkeypatch: pytest.MonkeyPatch) -> None:
        self.loads: Counter[tuple[str, str]] = Counter()
        self.measured: dict[str, int | None] = {}
        self._stage = ""
        self._count_loads(monkeypatch)
        # paths in a recipe are relative to it, but the store and outputs are given
        folder = project.folder
        loaded, store = load_recipe(folder / "tiny.yaml", words), Store(folder / "observed")
        store.prepare()
        resolved = resolve_sources(loaded, store)
        self._inputs = loaded, resolved, store
        execute(loaded, resolved, store, emit=self._note, outputs=folder / "observed-outputs")

    def of(self, component: str) -> dict[str, int]:
        """Stage → how often it read the component."""
        return {stage: count for (stage, name), count in self.loads.items() if name == component}

    def count(self) -> dict[str, int]:
        """Stage → its counted peak in bytes."""
        loaded, resolved, store = self._inputs
        scope = make_scope(loaded.recipe, resolved, store, ALL_STAGES, None)
        return {name: counted.total for name, counted in count_stages(scope).items()}

    def _note(self, event: Event) -> None:
        if isinstance(event, StageStarted):
            self._stage = event.stage
        if isinstance(event, StageFinished):
            self.measured[event.stage] = event.memory

    def _count_loads(self, monkeypatch: pytest.MonkeyPatch) -> None:
        kind = type(families()["sd"])
        load = kind.load_component

        def counted(family: object, folder: Path, name: str, **options: object) -> torch.nn.Module:
            self.loads[self._stage, name] += 1
            return load(family, folder, name, **options)

        monkeypatch.setattr(kind, "load_component", counted)


def test_the_denoiser_is_read_once_and_all_else_once_a_stage(tmp_path: Path,
                                                             monkeypatch: pytest.MonkeyPatch) -> None:
    words = ("prior.count=1", "prior.steps=1", "train.steps=1", "train.checkpoint_every=1", "samples.steps=1",
             "samples.prompts=[a dog]", "export=[diffusers, kohya, peft, merged]")
    seen = Observed(lay_out(tmp_path / "project"), words, monkeypatch)
    assert seen.of("unet") == {"generate-priors": 1}
    assert seen.of("vae") == {"generate-priors": 1, "preprocess": 1, "export": 1}
    assert seen.of("text_encoder") == {"generate-priors": 1, "preprocess": 1, "export": 1}


@pytest.mark.slow
def test_the_memory_of_a_base_of_some_size(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    project = lay_out(tmp_path / "project")
    write_larger_base(project.folder / "base")
    words = ("prior.count=1", "prior.steps=1", "prior.guidance=1.0", "train.steps=2", "train.batch_size=1",
             "samples.steps=1", "samples.guidance=1.0", "samples.prompts=[a dog]", "images.resolution=128",
             "export=[diffusers, peft]")
    seen = Observed(project, words, monkeypatch)
    counted = seen.count()
    table = [f"{stage}: measured {(seen.measured[stage] or 0) >> 20} MiB, counted {counted[stage] >> 20} MiB"
             for stage in STAGES]
    print("\n".join(table), dict(seen.loads), sep="\n")
    train, export = seen.measured["train"], seen.measured["export"]
    assert train and export and export <= 1.2 * train, table
    for stage in ("generate-priors", "train", "export"):
        assert seen.measured[stage] == pytest.approx(counted[stage], rel=0.15), table


def write_larger_base(folder: Path) -> None:
    """Write a base like the tiny one, but with a denoiser of 540 MiB in 32 bits; files hold 16."""
    from diffusers import AutoencoderKL, StableDiffusionPipeline, UNet2DConditionModel

    with torch.random.fork_rng():
        torch.manual_seed(0)
        unet = UNet2DConditionModel(sample_size=16, cross_attention_dim=32, attention_head_dim=8,
                                    block_out_channels=(128, 256, 512, 512))
        vae = AutoencoderKL(block_out_channels=(32, 64, 128, 128), norm_num_groups=32, latent_channels=4,
                            down_block_types=("DownEncoderBlock2D",) * 4, up_block_types=("UpDecoderBlock2D",) * 4)
    pipeline = StableDiffusionPipeline.from_pretrained(folder, unet=unet, vae=vae, safety_checker=None,
                                                       requires_safety_checker=False)
    pipeline.to(torch.float16).save_pretrained(folder)
