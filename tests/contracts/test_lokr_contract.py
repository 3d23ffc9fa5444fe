"""Does each family's pipeline read a LoKr exactly where the family says so, and refuse it elsewhere?

diffusers decides: a file of the format `diffusers` on a fresh pipeline must predict what the merged weights do.
"""

from pathlib import Path

import pytest
import torch
from adapter_kinds import make, moved, put
from representatives import cases, family_cases

from dbrun.adapters.adapter_io import ComponentAdapter
from dbrun.formats.base import formats
from dbrun.formats.merge_weights import merge_adapter
from dbrun.formats.roundtrip import Probe
from dbrun.models.base import Model, families
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


def load(name: str, folder: Path) -> Model:
    return FAMILIES[name].load(folder, device=torch.device("cpu"), dtype=torch.float32)


def ask(model: Model) -> torch.Tensor:
    return Probe("a photo of sks dog", 32).predict(model)


def write_lokr(name: str, folder: Path, to: Path, kind: str, preset: str) -> ComponentAdapter:
    """A tiny base in `folder`, and in `to` the file of a LoKr as if it had learnt."""
    FAMILIES[name].write_tiny_base(folder)
    to.mkdir()
    attached = moved(put(load(name, folder), "denoiser", make("lokr", **KINDS[kind]), preset), by=0.2)
    formats()["diffusers"].write(to, FAMILIES[name], {"denoiser": attached}, lambda: load(name, folder))
    return attached


@pytest.mark.parametrize("kind", cases(KINDS, 3))
@pytest.mark.parametrize("name", cases(READERS, len(READERS) - 1))
def test_the_pipeline_reads_it_as_the_merged_weights(tmp_path: Path, name: str, kind: str) -> None:
    base, home = tmp_path / "base", tmp_path / "file"
    attached = write_lokr(name, base, home, kind, "linear")
    untouched, merged, theirs = (load(name, base) for _ in range(3))
    attached.attach_to(merged.denoiser)
    merge_adapter(merged.denoiser)
    theirs.pipeline.load_lora_weights(str(home))
    expected = ask(merged)
    effect = float((expected - ask(untouched)).abs().max())
    assert effect > 1e-2
    assert float((ask(theirs) - expected).abs().max()) <= LARGEST_SHARE * effect


@pytest.mark.parametrize("name", cases(READERS, len(READERS) - 1))
def test_the_file_is_read_back_as_the_adapter_that_it_was(tmp_path: Path, name: str) -> None:
    base, home, form = tmp_path / "base", tmp_path / "file", formats()["diffusers"]
    attached = write_lokr(name, base, home, "another scale", "attention")
    files = form.find_files(home)
    assert files is not None and form.adapter_type(files, FAMILIES[name], "denoiser") == "lokr"
    assert not any(tensor.endswith(".alpha") for tensor in read_header(files[0]).tensors)
    back, _ = convert_imported(form.import_adapter(home, load(name, base), "denoiser"), load(name, base).denoiser)
    ours, theirs = load(name, base), load(name, base)
    attached.attach_to(ours.denoiser)
    back.attach_to(theirs.denoiser)
    torch.testing.assert_close(ask(theirs), ask(ours), rtol=0, atol=1e-5)
    assert (back.modules, back.adapter.to_json()) == (
        attached.modules, {**attached.adapter.to_json(), "alpha": attached.adapter.rank})


@pytest.mark.parametrize("name", family_cases(OTHERS))
def test_other_pipelines_refuse_it(tmp_path: Path, name: str) -> None:
    """The day this fails, diffusers reads it there, too: then the family's `diffusers_marks` name it."""
    base, home = tmp_path / "base", tmp_path / "file"
    attached = write_lokr(name, base, home, "as it is", "attention")
    with pytest.raises(ValueError, match="Invalid LoRA checkpoint"):
        load(name, base).pipeline.load_lora_weights(str(home))
    reason = formats()["diffusers"].unsupported_reason(FAMILIES[name], "denoiser", attached.adapter)
    assert reason == "which carries LoRA only, and `adapt.denoiser` is of type lokr"
