"""Does a component that learns in place go through all stages, and leave as what it has become?"""

import pytest
import torch
from diffusers import UNet2DConditionModel
from transformers import CLIPTextModel

from dbrun.adapters.adapter_io import read_adapters
from dbrun.formats.roundtrip import Probe
from dbrun.models.base import families

FAMILY = families()["sd"]


@pytest.mark.parametrize("text_encoder", [pytest.param(None, marks=pytest.mark.slow), {"type": "lora", "rank": 2}])
def test_what_is_exported_predicts_what_was_trained(bench, text_encoder) -> None:
    """Alone, and beside a LoRA on the text encoder, which the exported text encoder holds in its weights."""
    chosen = bench.recipe(adapt={"denoiser": {"type": "full"}, "text_encoder": text_encoder}, export=None,
                          train={"steps": 2, "learning_rate": 1e-3}, samples={"prompts": ("a dog",), "steps": 1})
    out = bench.through("export", chosen).path
    adapters = read_adapters(bench.artifacts["train"].path)
    own, theirs = (FAMILY.load(bench.base, device=torch.device("cpu"), dtype=torch.float32) for _ in range(2))
    base = Probe("a dog", 32).predict(own)
    for name, attached in adapters.items():
        attached.attach_to(own.module(name))
    theirs.replace_components({"unet": UNet2DConditionModel.from_pretrained(out / "component" / "unet").eval()})
    assert (out / "component" / "text_encoder").exists() == (text_encoder is not None)
    if text_encoder:
        encoder = CLIPTextModel.from_pretrained(out / "component" / "text_encoder").eval()
        theirs.replace_components({"text_encoder": encoder})
    trained = Probe("a dog", 32).predict(own)
    assert (trained - base).abs().max() > 1e-3
    torch.testing.assert_close(Probe("a dog", 32).predict(theirs), trained, rtol=0, atol=5e-6)
    assert not list(out.glob("pytorch_lora_weights.*")) and not (out / "peft").exists()
    assert {p.name for p in (out / "component" / "unet").iterdir()} == {
        "config.json", "diffusion_pytorch_model.safetensors"}
