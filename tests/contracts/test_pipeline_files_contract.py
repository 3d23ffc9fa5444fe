"""Does each family's pipeline read the files of the format `diffusers` exactly, and a LoKr where the family says so?

diffusers decides: `load_lora_weights` on a fresh pipeline must predict what was trained, or refuse the file.
"""

from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
from adapter_kinds import make, moved, put
from representatives import cases, family_cases

from dbrun.adapters.adapter_io import ComponentAdapter
from dbrun.adapters.attach import write_weights
from dbrun.formats.base import formats
from dbrun.formats.merge_weights import merge_adapter
from dbrun.models.base import Family, Model, families
from dbrun.safetensors_header import read_header
from dbrun.use.import_adapter import convert_imported

FAMILIES = families()
READERS = [name for name, family in sorted(FAMILIES.items()) if "lokr" in family.diffusers_marks]
OTHERS = [name for name in FAMILIES if name not in READERS]
KINDS = {
    "as it is": {}, "another scale": {"rank": 2, "alpha": 5.0}, "a factor that divides nothing": {"factor": 7},
    "both factors thin": {"factor": 16, "rank": 1, "alpha": 3.0, "decompose_both": True},
    "both factors whole": {"rank": 64, "alpha": 16.0, "factor": 4}}
LARGEST_SHARE = 1e-5
"""Largest difference, as a share of the adapter's effect."""
SIDE = 32
FORM = formats()["diffusers"]


def ask(model: Model) -> torch.Tensor:
    """Its prediction for one picture, [1, C, h, w]."""
    pixels = torch.rand(1, 3, SIDE, SIDE, generator=torch.Generator().manual_seed(0)) * 2 - 1
    with torch.no_grad():
        stored = model.encode_images(pixels)
        x0, more = model.sample_x0(stored, lambda _, shape: torch.zeros(1, *shape), model.family.class_labels[0])
        condition = model.collate_conditions(model.encode_prompts(["a photo of sks dog"]))
        return model.predict(x0, torch.tensor([500]), {**condition, **more})


@dataclass(frozen=True)
class Base:
    """folder: a tiny base; untouched: what it predicts."""

    family: Family
    folder: Path
    untouched: torch.Tensor

    def load(self) -> Model:
        return self.family.load(self.folder, device=torch.device("cpu"), dtype=torch.float32)

    def write(self, to: Path, adapters: dict[str, ComponentAdapter]) -> None:
        to.mkdir(parents=True)
        FORM.write(to, self.family, adapters, self.load)

    def lokr(self, kind: str, preset: str) -> ComponentAdapter:
        """A LoKr on the denoiser, as if it had learnt."""
        return moved(put(self.load(), "denoiser", make("lokr", **KINDS[kind]), preset), by=0.2)

    def effect(self, expected: torch.Tensor) -> float:
        effect = float((expected - self.untouched).abs().max())
        assert effect > 1e-2
        return effect

    def check_same(self, prediction: torch.Tensor, expected: torch.Tensor) -> None:
        assert float((prediction - expected).abs().max()) <= LARGEST_SHARE * self.effect(expected)


@pytest.fixture(scope="module")
def base(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Base:
    """A base of the family of this name; tests of one family follow each other."""
    family, folder = FAMILIES[request.param], tmp_path_factory.mktemp("pipelines") / request.param
    family.write_tiny_base(folder)
    made = Base(family, folder, torch.empty(0))
    return Base(family, folder, ask(made.load()))


every = pytest.mark.parametrize("base", family_cases(), indirect=True, scope="module")
readers = pytest.mark.parametrize("base", cases(READERS, len(READERS) - 1), indirect=True, scope="module")


@every
@pytest.mark.parametrize("alpha", [2.0, 7.0])
def test_loras_on_all_components_are_read_whatever_their_scale(base: Base, tmp_path: Path, alpha: float) -> None:
    presets = base.family.target_presets
    widest = {component: list(presets[component])[-1] for component in base.family.diffusers_prefixes}
    check_loras(base, tmp_path / "file", alpha, widest)


@pytest.mark.slow
@every
def test_a_lora_of_every_preset_is_read(base: Base, tmp_path: Path) -> None:
    for component in base.family.diffusers_prefixes:
        for preset in base.family.target_presets[component]:
            check_loras(base, tmp_path / component / preset, 3.0, {component: preset})


def check_loras(base: Base, to: Path, alpha: float, presets: dict[str, str]) -> None:
    """presets: component → the preset of its LoRA."""
    trained, theirs = base.load(), base.load()
    lora, adapters = make("lora", rank=2, alpha=alpha), dict[str, ComponentAdapter]()
    for seed, (component, preset) in enumerate(presets.items()):
        adapters[component] = moved(put(trained, component, lora, preset, seed), by=0.2, seed=seed)
        write_weights(trained.module(component), adapters[component].state)
    base.write(to, adapters)
    theirs.pipeline.load_lora_weights(str(to))
    expected = ask(trained)
    # on all layers of all components rounding adds up
    torch.testing.assert_close(ask(theirs), expected, rtol=1e-4, atol=1e-5 * max(1.0, base.effect(expected)))


@pytest.mark.parametrize("name", FAMILIES)
def test_its_prefixes_are_of_its_components(name: str) -> None:
    assert set(FAMILIES[name].diffusers_prefixes) <= set(FAMILIES[name].components)


@readers
@pytest.mark.parametrize("kind", cases(KINDS, 3))
def test_a_lokr_is_read_as_the_merged_weights(base: Base, tmp_path: Path, kind: str) -> None:
    merged, theirs, attached = base.load(), base.load(), base.lokr(kind, "linear")
    base.write(tmp_path / "file", {"denoiser": attached})
    attached.attach_to(merged.denoiser)
    merge_adapter(merged.denoiser)
    theirs.pipeline.load_lora_weights(str(tmp_path / "file"))
    base.check_same(ask(theirs), ask(merged))


@readers
def test_the_file_of_a_lokr_is_read_back_as_the_adapter_that_it_was(base: Base, tmp_path: Path) -> None:
    home, attached = tmp_path / "file", base.lokr("another scale", "attention")
    base.write(home, {"denoiser": attached})
    files = FORM.find_files(home)
    assert files is not None and FORM.adapter_type(files, base.family, "denoiser") == "lokr"
    # diffusers takes an alpha for a weight of another type
    assert not any(name.endswith(".alpha") for name in read_header(files[0]).tensors)
    back, _ = convert_imported(FORM.import_adapter(home, base.load(), "denoiser"), base.load().denoiser)
    ours, theirs = base.load(), base.load()
    attached.attach_to(ours.denoiser)
    back.attach_to(theirs.denoiser)
    base.check_same(ask(theirs), ask(ours))
    assert (back.modules, back.adapter.to_json()) == (
        attached.modules, {**attached.adapter.to_json(), "alpha": attached.adapter.rank})


@pytest.mark.parametrize("base", family_cases(OTHERS), indirect=True, scope="module")
def test_other_pipelines_refuse_a_lokr(base: Base, tmp_path: Path) -> None:
    """The day this fails, diffusers reads it there, too: then the family's `diffusers_marks` name it."""
    attached = base.lokr("as it is", "attention")
    base.write(tmp_path / "file", {"denoiser": attached})
    with pytest.raises(ValueError, match="Invalid LoRA checkpoint"):
        base.load().pipeline.load_lora_weights(str(tmp_path / "file"))
    reason = FORM.unsupported_reason(base.family, "denoiser", attached.adapter)
    assert reason == "which carries LoRA only, and `adapt.denoiser` is of type lokr"
