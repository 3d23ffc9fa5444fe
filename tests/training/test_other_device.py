"""Does a step on another device mix no devices, and fetch nothing from it but its numbers? On torch's `meta` device."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from representatives import family_cases
from torch import Tensor
from train_settings import changed, train_settings

from dbrun.adapters.attach import attach, match_layers
from dbrun.adapters.base import Adapter, Learnable
from dbrun.adapters.embedding import Embedding
from dbrun.adapters.full import Full
from dbrun.adapters.lora import Lora
from dbrun.diffusion.losses import Loss
from dbrun.models.base import Condition, Family, Model, families
from dbrun.options.ema import Ema
from dbrun.options.loss_functions import Huber
from dbrun.options.optimizers import AdamW
from dbrun.options.schedules import Constant
from dbrun.options.weightings import MinSnr
from dbrun.training import loop, prompt_embeds
from dbrun.training.batches import Batch
from dbrun.training.loop import Trainer
from dbrun.training.param_groups import eval_mode
from dbrun.training.prompt_embeds import cached_prompts, live_prompts
from dbrun.training.recompute import enable_gradient_checkpointing

# it has no numbers, so that to fetch one raises, as does an operation that meets a tensor of the CPU
ELSEWHERE = torch.device("meta")
READS_NUMBERS = {
    "chroma": "prompts of one length are predicted at a time, and `meta` cannot tell their lengths",
    "z_image": "diffusers' transformer looks for the padding (`torch.nonzero`), which `meta` cannot answer"}
"""Family → why it cannot be tried there."""
PROMPTS = ("a photo of a dog", "a photo of <sks> dog")
SETTINGS = train_settings(steps=2, learning_rate=1e-2, accumulation=1, max_grad_norm=1.0, optimizer=AdamW(),
                    schedule=Constant(), precision="fp32", prior_weight=1.0, seed=0)
LORA, WORD = Lora(type="lora", rank=2), Embedding(token="<sks>", initializer="d", vectors=2)


@pytest.fixture(autouse=True)
def encoded_prompts_stay(monkeypatch: pytest.MonkeyPatch) -> None:
    """What a text encoder gives there has no numbers that could be fetched into CPU memory."""
    fetch = prompt_embeds.to_host
    monkeypatch.setattr(prompt_embeds, "to_host", lambda condition, dtype: condition if any(
        tensor.device == ELSEWHERE for tensor in condition.values()) else fetch(condition, dtype))


@pytest.fixture(scope="module", params=family_cases(families().keys() - READS_NUMBERS.keys()))
def base(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[Family, Path]:
    family, folder = families()[request.param], tmp_path_factory.mktemp(request.param)
    family.write_tiny_base(folder)
    return family, folder


@pytest.fixture(autouse=True)
def unread(monkeypatch: pytest.MonkeyPatch) -> None:
    """The numbers of a step are there, and are not fetched."""
    def read(losses: Sequence[Loss], norm: Tensor) -> tuple[float, float, float, float]:
        assert norm.device == ELSEWHERE and all(loss.total.device == ELSEWHERE for loss in losses)
        return 1.0, 1.0, 1.0, 1.0

    monkeypatch.setattr(loop, "_read_numbers", read)


def loaded_with(base: tuple[Family, Path], parts: dict[str, Learnable]) -> Model:
    family, folder = base
    model = family.load(folder, device=ELSEWHERE, dtype=torch.float32)
    for component, one in parts.items():
        module = model.module(component)
        names: tuple[str, ...] = ()
        if isinstance(one, Adapter):
            names = match_layers(module, family.target_presets[component]["attention"], one.layer_classes)
        attach(module, one, names, seed=None)
    return model


def kept(base: tuple[Family, Path]) -> tuple[Tensor, list[Condition]]:
    """What `preprocess` stores of four pictures and of the prompts."""
    family, folder = base
    model = family.load(folder, device=torch.device("cpu"), dtype=torch.float32)
    with torch.no_grad():
        return model.encode_images(torch.zeros(4, 3, 32, 32)), model.encode_prompts(PROMPTS)


def dealt(model: Model, stored: Tensor) -> Batch:
    """Two instance and two class rows, as the CPU deals them."""
    x0, extra_conditions = model.sample_x0(stored, lambda what, shape: torch.randn(4, *shape),
                                            model.family.class_labels[0])
    return Batch(x0, torch.randn_like(x0), torch.tensor([0, 9, 500, 999]), (1, 1, 0, 0), 2, extra_conditions,
                 input_noise=torch.randn_like(x0), loss_mask=torch.ones(4, 1, *x0.shape[2:]))


def trains(base: tuple[Family, Path], parts: dict[str, Learnable], *, trains_text_encoders: bool = False,
           of_base: bool = True, ready: Callable[[Model], None] = lambda loaded: None,
           **changes: Any) -> None:
    model, (stored, encoded) = loaded_with(base, parts), kept(base)
    ready(model)
    conditions = [live_prompts(model, PROMPTS) if trains_text_encoders
                  else cached_prompts(model, encoded)
                  for _ in range(2)]
    trainer = Trainer(model, tuple(parts), conditions[0], changed(SETTINGS, **changes),
                      conditions[1] if of_base else None)
    batch = dealt(model, stored)
    told = hints_told(trainer)
    trainer.step([batch])
    trainer.step([batch, batch])
    assert told and all(extra_conditions == batch.extra_conditions.keys() for extra_conditions in told)
    assert trainer.parameters and all(p.device == ELSEWHERE for p in trainer.parameters)
    with trainer.eval_weights(), eval_mode(trainer.modules.values()):
        assert trainer.loss(batch).total.device == ELSEWHERE


def hints_told(trainer: Trainer) -> list[set[str]]:
    """The names, of those that are no prompt's, that each prediction is told; filled while training goes on."""
    told: list[set[str]] = []

    predict = trainer.model.predict

    def watched(x_t: Tensor, t: Tensor, condition: Condition) -> Tensor:
        # of one prompt nothing is masked
        told.append(condition.keys() - trainer.prompt_encoder([0]).keys() - {"mask"})
        return predict(x_t, t, condition)

    trainer.model.predict = watched
    return told


def test_an_adapter(base: tuple[Family, Path]) -> None:
    trains(base, {"denoiser": LORA})


@pytest.mark.slow
def test_an_adapter_with_another_loss_averages_and_checkpointing(base: tuple[Family, Path]) -> None:
    trains(base, {"denoiser": LORA}, of_base=False, distance=Huber(type="huber"),
           weighting=MinSnr(type="min_snr"), ema=Ema(), ready=enable_gradient_checkpointing)


def test_the_component_itself(base: tuple[Family, Path]) -> None:
    trains(base, {"denoiser": Full(type="full")})


def test_prompts_that_learn(base: tuple[Family, Path]) -> None:
    if "text_encoder" not in base[0].components:
        pytest.skip("its text encoder is fixed")
    trains(base, {"denoiser": LORA, "text_encoder": LORA}, trains_text_encoders=True)
    if "trigger" in base[0].token_components:
        trains(base, {"denoiser": LORA, "trigger": WORD}, trains_text_encoders=True)


def test_encoded_prompts_wait_in_cpu_memory_in_the_bases_dtype(base: tuple[Family, Path]) -> None:
    family, folder = base
    model = family.load(folder, device=ELSEWHERE, dtype=torch.bfloat16)
    _, encoded = kept(base)
    waiting: list[tuple[str, torch.dtype]] = []
    collate = model.collate_conditions

    def watched(conditions: Any) -> Condition:
        waiting.extend((tensor.device.type, tensor.dtype) for one in conditions for tensor in one.values())
        return collate(conditions)

    model.collate_conditions = watched  # type: ignore[method-assign]
    batch = cached_prompts(model, encoded)([1, 0])
    assert set(waiting) == {("cpu", torch.bfloat16)}
    assert {tensor.device.type for tensor in batch.values()} == {"cpu"}
