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

SHORT = ("prior.count=1", "prior.steps=1", "prior.guidance=1.0", "train.batch_size=1", "samples.steps=1",
         "samples.guidance=1.0", "samples.prompts=[a dog]")
EVERY_FORMAT = "export=[component, diffusers, kohya, merged, peft, single_file]"
ONCE_A_STAGE = {"generate-priors": 1, "preprocess": 1, "export": 1}


class Observed:
    """A run in this process.

    loads: (stage, component, dtype) → how often it was read from the base; read: bytes of the files that were read;
    measured: stage → its peak in bytes.
    """

    def __init__(self, project: Project, words: tuple[str, ...], monkeypatch: pytest.MonkeyPatch) -> None:
        self.loads: Counter[tuple[str, str, torch.dtype]] = Counter()
        self.read, self.measured = 0, dict[str, int | None]()
        self._stage, self._base = "", project.folder / "base"
        self._count_loads(monkeypatch)
        # paths in a recipe are relative to it, but the store and outputs are given
        folder = project.folder
        loaded, store = load_recipe(folder / "tiny.yaml", words), Store(folder / "observed")
        store.prepare()
        resolved = resolve_sources(loaded, store)
        self._inputs = loaded, resolved, store
        execute(loaded, resolved, store, emit=self._note, outputs=folder / "observed-outputs")

    def of(self, component: str, dtype: torch.dtype = torch.float32) -> dict[str, int]:
        """Stage → how often it read the component in this dtype."""
        return {stage: count for (stage, name, read_as), count in self.loads.items()
                if name == component and read_as == dtype}

    def count(self) -> dict[str, int]:
        """Stage → its counted peak in bytes."""
        loaded, resolved, store = self._inputs
        scope = make_scope(loaded.recipe, resolved, store, ALL_STAGES, None)
        return {name: counted.total for name, counted in count_stages(scope).items()}

    @property
    def base_bytes(self) -> int:
        """Bytes of all weight files of the base."""
        return sum(path.stat().st_size for path in self._base.glob("*/*.safetensors"))

    def _note(self, event: Event) -> None:
        if isinstance(event, StageStarted):
            self._stage = event.stage
        if isinstance(event, StageFinished):
            self.measured[event.stage] = event.memory

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


@pytest.mark.slow
@pytest.mark.parametrize("learning", ["text_encoder", "trigger", "nothing else"])
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_so_it_is_in_each_precision_and_with_encoders_that_learn(tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
                                                                 learning: str, precision: str) -> None:
    words = (*SHORT, "train.steps=1", "samples.every=1", f"train.precision={precision}")
    formats = EVERY_FORMAT
    if learning == "text_encoder":
        words += ("adapt.text_encoder={type: lora, rank: 2}",)
    if learning == "trigger":
        words += ("adapt.trigger={token: <sks>, initializer: dog}", "subject.instance_prompt=a photo of <sks> dog")
        formats = "export=[diffusers, embedding, merged]"
    seen = Observed(lay_out(tmp_path / "project"), (*words, formats), monkeypatch)
    print(dict(seen.loads))
    for (stage, name, _), count in seen.loads.items():
        # a new word stands in the tokenizer: the text encoder is read again once it is gone
        assert count == 1 or (learning == "trigger" and name == "text_encoder"), (stage, name, count)
    # in 16 bits once more for the pipelines, which are merged in 32
    denoiser = Counter(dtype for _, name, dtype in seen.loads if name == "unet")
    assert all(count == 1 for count in denoiser.values()) and len(denoiser) == (1 if precision == "fp32" else 2)
    if learning != "trigger":
        assert seen.read <= 2.5 * seen.base_bytes


@pytest.mark.slow
def test_the_memory_of_a_base_of_some_size(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    project = lay_out(tmp_path / "project")
    write_larger_base(project.folder / "base")
    words = (*SHORT, "train.steps=2", "images.resolution=128", "export=[diffusers, kohya, peft]")
    seen = Observed(project, words, monkeypatch)
    counted = seen.count()
    table = [f"{stage}: measured {(measured or 0) >> 20} MiB, counted {counted[stage] >> 20} MiB"
             for stage, measured in seen.measured.items()]
    print("\n".join(table), dict(seen.loads), sep="\n")
    train, export = seen.measured["train"], seen.measured["export"]
    assert train and export and export <= 1.2 * train, table
    assert seen.read <= 2.5 * seen.base_bytes


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
