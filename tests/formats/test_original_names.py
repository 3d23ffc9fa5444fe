"""Are SDXL's layers written by their original names, as kohya's trainer does, and are both namings the same LoRA?"""

from pathlib import Path

import torch
from adapter_kinds import make, moved, put
from diffusers import StableDiffusionXLPipeline
from safetensors.torch import load_file, save_file

from dbrun.formats.base import formats
from dbrun.formats.kohya import FILE
from dbrun.models.base import Model, families

SDXL, KOHYA = families()["sdxl"], formats()["kohya"]


def test_both_namings_are_read_as_diffusers_reads_them(tmp_path: Path) -> None:
    """On every layer: A1111 and sd-scripts pass over some that are called by diffusers' names."""
    SDXL.write_tiny_base(tmp_path / "base")

    def fresh() -> Model:
        return SDXL.load(tmp_path / "base", device=torch.device("cpu"), dtype=torch.float32)

    attached = moved(put(fresh(), "denoiser", make("lora"), "all"), by=0.1)
    KOHYA.write(tmp_path, SDXL, {"denoiser": attached}, fresh)
    tensors = load_file(tmp_path / FILE)
    assert len(tensors) == 3 * len(attached.modules)
    assert not any("down_blocks" in name or "up_blocks" in name or "embedding" in name for name in tensors)
    found = {name: tensor for _, name, tensor in KOHYA.changed_weights(tmp_path, fresh(), ("denoiser",))}
    assert {name.removesuffix(".weight") for name in found} == set(attached.modules)

    pipeline = StableDiffusionXLPipeline.from_pretrained(tmp_path / "base", add_watermarker=False)
    pipeline.load_lora_weights(tmp_path, weight_name=FILE)
    pipeline.fuse_lora()
    pipeline.unload_lora_weights()
    theirs = pipeline.unet.state_dict()
    assert all((theirs[name] - tensor).abs().max() < 1e-5 for name, tensor in found.items())

    model = fresh()
    original = SDXL.original_layer_names(model.folder, "denoiser", attached.modules)
    by_rule = {f"lora_unet_{other.replace('.', '_')}": f"lora_unet_{name.replace('.', '_')}"
               for name, other in original.items()}
    renamed = {}
    for name, tensor in tensors.items():
        layer, _, end = name.partition(".")
        renamed[f"{by_rule[layer]}.{end}"] = tensor
    save_file(renamed, tmp_path / FILE)
    again = {name: tensor for _, name, tensor in KOHYA.changed_weights(tmp_path, fresh(), ("denoiser",))}
    assert again.keys() == found.keys() and all(torch.equal(again[name], found[name]) for name in found)
