"""Is a LoRA with the original names of SDXL's layers, as kohya's trainer writes them, read as the same LoRA?"""

from pathlib import Path

import torch
from adapter_kinds import make, moved, put
from diffusers import StableDiffusionXLPipeline
from safetensors.torch import load_file, save_file

from dbrun.formats.base import formats
from dbrun.formats.kohya import FILE, kohya_name
from dbrun.models.base import Model, families

SDXL, KOHYA = families()["sdxl"], formats()["kohya"]


def test_original_names_are_read_as_diffusers_reads_them(tmp_path: Path) -> None:
    SDXL.write_tiny_base(tmp_path / "base")

    def fresh() -> Model:
        return SDXL.load(tmp_path / "base", device=torch.device("cpu"), dtype=torch.float32)

    attached = moved(put(fresh(), "denoiser", make("lora"), "attention+ff"), by=0.1)
    KOHYA.write(tmp_path, SDXL, {"denoiser": attached}, fresh)
    expected = {name: tensor for _, name, tensor in KOHYA.changed_weights(tmp_path, fresh(), ("denoiser",))}

    model = fresh()
    names = [name for name, _ in model.module("denoiser").named_modules()]
    original = SDXL.original_layer_names(model.folder, "denoiser", names)
    renamed = {kohya_name(SDXL, "denoiser", name): f"lora_unet_{other.replace('.', '_')}"
               for name, other in original.items()}
    tensors = {}
    for name, tensor in load_file(tmp_path / FILE).items():
        layer, _, end = name.partition(".")
        tensors[f"{renamed[layer]}.{end}"] = tensor
    assert not any("down_blocks" in name or "up_blocks" in name for name in tensors)
    save_file(tensors, tmp_path / FILE)
    found = {name: tensor for _, name, tensor in KOHYA.changed_weights(tmp_path, fresh(), ("denoiser",))}
    assert found.keys() == expected.keys() and all(torch.equal(found[name], expected[name]) for name in found)

    pipeline = StableDiffusionXLPipeline.from_pretrained(tmp_path / "base", add_watermarker=False)
    pipeline.load_lora_weights(tmp_path, weight_name=FILE)
    pipeline.fuse_lora()
    pipeline.unload_lora_weights()
    theirs = pipeline.unet.state_dict()
    assert all((theirs[name] - tensor).abs().max() < 1e-5 for name, tensor in found.items())
