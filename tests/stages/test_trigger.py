"""Does a new word go through all stages, alone and beside adapters, and leave with what it was trained with?"""

import pytest
import torch
from diffusers import StableDiffusionPipeline

from dbrun.adapters.adapter_io import read_adapters
from dbrun.formats.roundtrip import Probe
from dbrun.models.base import families

FAMILY = families()["sd"]
WORD = {"token": "<sks>", "initializer": "dog", "vectors": 3}
PROBE = Probe("a photo of <sks> dog", 32)
LORA = {"type": "lora", "rank": 2, "targets": "all"}


@pytest.mark.parametrize("beside", [pytest.param({"denoiser": None}, marks=pytest.mark.slow),
                                    {"denoiser": LORA, "text_encoder": LORA}],
                         ids=["alone", "beside adapters"])
def test_what_is_exported_predicts_what_was_trained(bench, beside) -> None:
    chosen = bench.recipe(adapt={**beside, "trigger": WORD}, export=None, train={"steps": 2, "learning_rate": 0.05},
                          subject={"instance_prompt": "a photo of <sks> dog"}, prior=None,
                          samples={"prompts": ("a <sks> dog",), "steps": 1})
    out = bench.through("export", chosen).path
    assert not (bench.artifacts["preprocess"].path / "prompts.safetensors").exists(), "prompts are encoded live"
    trained = FAMILY.load(bench.base, device=torch.device("cpu"), dtype=torch.float32)
    base = PROBE.predict(trained)
    for name, attached in read_adapters(bench.artifacts["train"].path).items():
        attached.attach_to(trained.module(name))
    theirs = FAMILY.load(bench.base, device=torch.device("cpu"), dtype=torch.float32)
    assert isinstance(theirs.pipeline, StableDiffusionPipeline)
    theirs.pipeline.load_textual_inversion(str(out / "embeddings" / "sks.safetensors"))
    lora = out / "pytorch_lora_weights.safetensors"
    assert lora.exists() == (out / "peft").exists() == bool(beside["denoiser"])
    if lora.exists():
        theirs.pipeline.load_lora_weights(str(out))
    expected = PROBE.predict(trained)
    assert (expected - base).abs().max() > 1e-3
    torch.testing.assert_close(PROBE.predict(theirs), expected, rtol=0, atol=5e-6)
