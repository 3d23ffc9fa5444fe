"""Do the loss and the step give the reference's numbers? (`../shared/golden`, made by diffusers' own scripts)"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import UNet2DConditionModel
from safetensors.torch import load_file
from torch import Tensor
from train_settings import train_settings

from dbrun.adapters.attach import attach, match_layers, read_weights, write_weights
from dbrun.adapters.lora import Lora
from dbrun.diffusion.ddpm import DiffusionProcess
from dbrun.diffusion.losses import prior_preservation_loss
from dbrun.diffusion.noise import offset_noise
from dbrun.models.base import families
from dbrun.models.sd import StableDiffusionModel
from dbrun.options.loss_functions import MSE
from dbrun.options.optimizers import AdamW
from dbrun.options.schedules import Cosine
from dbrun.options.weightings import UNWEIGHTED, MinSnr, Weighting
from dbrun.training.batches import Batch
from dbrun.training.loop import Trainer

GOLDEN = Path(__file__).parents[3] / "shared" / "golden"
pytestmark = pytest.mark.skipif(not GOLDEN.is_dir(), reason="the golden numbers are not beside this checkout")

SETTINGS = ("", "_prior0.5", "_prior1.0", "_minsnr5", "_minsnr5_dreamboothrule", "_noiseoffset0.1",
            "_noiseoffset0.1_minsnr5")
CASES = ("epsilon_6channel", "epsilon_6channel_prior1.0",
         *(f"{prediction}{setting}" for prediction in ("epsilon", "v_prediction") for setting in SETTINGS))


class Bare:
    """A pipeline without components."""

    components: Mapping[str, object] = {}


def numbers(name: str) -> dict[str, Any]:
    return json.loads((GOLDEN / name).read_text())


def test_the_cases_are_all_there() -> None:
    assert set(numbers("expected.json")["cases"]) == set(CASES)


def weighting(case: str) -> Weighting:
    if "minsnr5" not in case:
        return UNWEIGHTED
    return MinSnr(type="min_snr", gamma=5.0, rule="dreambooth" if "dreamboothrule" in case else "paper")


@pytest.mark.parametrize("case", CASES)
def test_loss(case: str) -> None:
    expected, inputs = numbers("expected.json"), load_file(GOLDEN / "inputs.safetensors")
    prediction = "v_prediction" if case.startswith("v_prediction") else "epsilon"
    process = DiffusionProcess.from_config({**expected["scheduler"], "prediction_type": prediction})
    six = "6channel" in case
    unet = UNet2DConditionModel.from_pretrained(GOLDEN / ("unet3to6" if six else "unet4"))
    x0, noise = (inputs[k] for k in (("pixels", "pixel_noise") if six else ("latents", "noise")))
    model = StableDiffusionModel(families()["sd"], Bare(), GOLDEN, torch.device("cpu"), torch.float32)
    model.replace_components({"unet": unet})
    t = inputs["timesteps"]
    weight = float(case.partition("_prior")[2] or 0)
    if "noiseoffset" in case:
        noise = offset_noise(noise, 0.1, inputs["noise_offset_noise"])

    with torch.no_grad():
        pred = model.predict(process.add_noise(x0, noise, t), t, {"hidden": inputs["prompt_embeds"]})
    per_sample = MSE.per_sample(pred, process.target(x0, noise, t), t, process)
    weighed = per_sample * weighting(case).weights(process.snr(t), process.prediction).float()
    loss = prior_preservation_loss(weighed, instances=2 if weight else 4, prior_weight=weight).total

    assert loss.item() == pytest.approx(expected["cases"][case]["float64"], rel=1e-6)


def test_alpha_bar() -> None:
    expected = numbers("expected.json")
    process = DiffusionProcess.from_config(expected["scheduler"])
    for t, values in expected["alphas_cumprod"].items():
        assert process.alpha_bar[int(t)].item() == pytest.approx(values["independent_f64"], rel=1e-12)
        assert process.snr(torch.tensor([int(t)])).item() == pytest.approx(values["snr_f64"], rel=1e-9)


@pytest.mark.parametrize("trace", ["eps", "eps_prior"])
def test_trace(trace: str) -> None:
    """Eight recorded steps of the DreamBooth script, through our own step."""
    folder, script = GOLDEN / f"trace_{trace}", numbers(f"trace_{trace}/script.json")
    steps = load_file(folder / "steps.safetensors")
    count = len(script["loss"])
    family = families()["sd"]
    model = family.load(GOLDEN / "nanosd", device=torch.device("cpu"), dtype=torch.float32)
    unet = model.module("denoiser")
    lora = Lora(type="lora", rank=4, targets="attention")
    attach(unet, lora, match_layers(unet, family.target_presets["denoiser"]["attention"]), seed=0)
    write_weights(unet, load_file(folder / "adapter_init_peft.safetensors"))

    prior = trace == "eps_prior"
    settings = train_settings(steps=count, learning_rate=0.01, accumulation=1, max_grad_norm=1.0, optimizer=AdamW(),
                        schedule=Cosine(type="cosine", warmup_steps=2), precision="fp32",
                        prior_weight=0.5 if prior else 0.0, seed=0)
    trainer = Trainer(model, ("denoiser",),
                      lambda rows: {"hidden": steps[f"{rows[0]}.prompt_embeds"]}, settings)
    seen = [trainer.step([recorded(steps, k, prior)]) for k in range(count)]

    assert [m.loss for m in seen] == pytest.approx(script["loss"], rel=1e-6)
    assert [m.grad_norm for m in seen] == pytest.approx(script["grad_norm"], rel=1e-5)
    # the script reads its rate after the scheduler's step: ours of the next step
    assert [m.learning_rate for m in seen[1:]] == script["lr"][:-1]
    final = load_file(folder / "adapter_final.safetensors")
    ours = {f"unet.{k}".replace("lora_A", "lora.down").replace("lora_B", "lora.up"): v
            for k, v in read_weights(unet).items()}
    assert ours.keys() == final.keys()
    assert max((ours[k] - final[k]).abs().max().item() for k in final) < 6e-6


def recorded(steps: dict[str, Tensor], k: int, prior: bool) -> Batch:
    x0 = steps[f"{k}.model_input"]
    return Batch(x0, steps[f"{k}.noise"], steps[f"{k}.timesteps"], prompts=(k,) * len(x0),
                 num_instances=len(x0) // 2 if prior else len(x0))
