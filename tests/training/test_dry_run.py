"""Does the count of a dry run agree with what a real step saves, and with the memory that real tensors take?"""

from importlib.util import find_spec
from pathlib import Path

import pytest
import torch
from tiny_steps import gone, trainer
from tiny_training import write_inputs
from train_settings import train_settings

from dbrun.adapters.adapter_layers import matched_layers
from dbrun.adapters.attach import attach
from dbrun.adapters.lora import Lora
from dbrun.models.base import Sampling, families
from dbrun.models.offload import find_offload
from dbrun.models.quantisation import quantisations
from dbrun.options.optimizers import AdamW
from dbrun.options.schedules import Constant
from dbrun.stages.sources import BaseSource
from dbrun.stages.support.base_loading import quantise_denoiser
from dbrun.stages.support.memory_phases import open_dry_run
from dbrun.training.batches import Batch
from dbrun.training.dry_run import DryRun
from dbrun.training.dry_step import StepMemory
from dbrun.training.live_memory import LiveMemory, count_saved
from dbrun.training.loop import Trainer
from dbrun.training.prompt_embeds import cached_prompts
from dbrun.training.recompute import enable_gradient_checkpointing

LORA = Lora.model_validate({"type": "lora", "rank": 2, "targets": "attention"})
SETTINGS = train_settings(steps=1, learning_rate=1e-3, batch_size=2, accumulation=1, max_grad_norm=1.0,
                          optimizer=AdamW(), schedule=Constant(), precision="fp32", prior_weight=1.0, seed=0)


def dry_run(folder: Path, family: str = "sd", offload: str | None = None) -> DryRun:
    # in 32 bits a GPU computes as a CPU does
    return open_dry_run(BaseSource("files:0", family, folder, None, {}, Sampling(2, 2.0)), "cuda", offload)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("dry") / "base"
    families()["sd"].write_tiny_base(place)
    return place


def real_step(folder: Path, *, checkpointing: bool = False, quantise: str | None = None,
              offload: str | None = None) -> tuple[StepMemory, int]:
    """What a step of real tensors takes, and the bytes of the denoiser with its adapter on the device."""
    family = families()["sd"]
    model = family.load(folder, device=torch.device("cpu"), dtype=torch.float32)
    if quantise is not None:
        quantise_denoiser(model, quantisations()[quantise])
    with torch.no_grad():
        conditions = model.encode_prompts(["a photo 0", "a photo 1"])
    if offload is not None:
        model.weights.offloaded = "unet"
    module = model.denoiser
    whole = sum(parameter.nbytes for parameter in module.parameters())
    attach(module, LORA, matched_layers(family, module, "denoiser", LORA), seed=0)
    if checkpointing:
        enable_gradient_checkpointing(model)
    trainer = Trainer(model, ("denoiser",), cached_prompts(model, conditions), SETTINGS)
    x0 = torch.zeros(2, 4, 8, 8)
    batch = Batch(x0, torch.zeros_like(x0), torch.zeros(2, dtype=torch.int64), (0, 1), 2)
    with trainer.fused_layers(), count_saved(module.parameters()) as saved:
        trainer.loss(batch)
    with trainer.fused_layers(), LiveMemory() as live:
        trainer.loss(batch).total.backward()
    resident = sum(parameter.nbytes for parameter in module.parameters())
    offloaded = find_offload(module)
    if offloaded is not None:
        resident -= offloaded.block_bytes
        assert offloaded.block_bytes > whole / 2
    return StepMemory(live.peak, saved.nbytes), resident


def dry_step(folder: Path, *, checkpointing: bool = False, quantise: str | None = None,
             offload: str | None = None) -> tuple[StepMemory, int]:
    """The same as a dry run counts it."""
    base = dry_run(folder, offload=offload).open("fp32", {"denoiser": LORA}, quantise)
    step = base.train_step(SETTINGS, 32, 2, 2, checkpointing=checkpointing)
    return step, base.weight_bytes("unet")


def test_a_step_is_counted_as_a_real_one_takes_it(folder: Path) -> None:
    plain = real_step(folder)
    checkpointed = real_step(folder, checkpointing=True)
    assert dry_step(folder) == plain
    assert dry_step(folder, checkpointing=True) == checkpointed
    assert checkpointed[0].peak < plain[0].peak and checkpointed[0].saved < plain[0].saved


def test_the_gradient_buffer_is_counted_as_a_real_step_takes_it(tmp_path: Path) -> None:
    write_inputs(tmp_path)
    trained = trainer(tmp_path)
    with LiveMemory() as live:
        gone(trained, 1)
    states = AdamW.STATES_PER_WEIGHT * sum(parameter.nbytes for parameter in trained.parameters)
    adapter = Lora.model_validate({"type": "lora", "rank": 2, "targets": "all"})
    counted = dry_run(tmp_path / "base").open("fp32", {"denoiser": adapter}).gradient_buffer_bytes
    # a step leaves no more than that, but for AdamW's counter of steps
    assert 0 <= live.live - states - counted < 64 and counted > 1000


def test_an_offloaded_step_is_counted_as_a_real_one_takes_it(folder: Path) -> None:
    assert dry_step(folder, offload="blocks") == real_step(folder, offload="blocks")
    base = dry_run(folder, offload="blocks").open("fp32", {"denoiser": LORA})
    assert base.sample(32, 2) > 0


def test_a_base_without_adapters_is_counted_offloaded(folder: Path) -> None:
    """As `adapt` and the stages before it count it: nothing is attached while the shapes are still no fake tensors."""
    whole, offloaded = (dry_run(folder, offload=offload).open("bf16") for offload in (None, "blocks"))
    assert 0 < offloaded.weight_bytes("unet") < whole.weight_bytes("unet") / 2


@pytest.mark.skipif(find_spec("bitsandbytes") is None, reason="bitsandbytes is not installed")
@pytest.mark.parametrize("quantise", [pytest.param("nf4", marks=pytest.mark.slow), "int8"])
def test_a_quantised_step_is_counted_as_a_real_one_takes_it(folder: Path, quantise: str) -> None:
    real, weights = real_step(folder, checkpointing=True, quantise=quantise)
    counted, counted_weights = dry_step(folder, checkpointing=True, quantise=quantise)
    assert counted == real
    # the scales are counted, but are no parameters
    assert weights < counted_weights < 1.02 * weights


def test_weights_are_no_activations() -> None:
    weight, rows = torch.ones(64, 64), torch.ones(2, 64)
    with LiveMemory() as live:
        result = rows @ weight.t()
    assert live.peak == live.live == result.nbytes


def test_storages_are_counted_once_and_until_they_are_freed() -> None:
    with LiveMemory() as live:
        first = torch.zeros(256)
        view = first.view(16, 16)
        second = view + 1
        assert live.live == live.peak == 2 * first.nbytes
        del first, view
        assert live.live == second.nbytes and live.peak == 2 * second.nbytes


@pytest.mark.slow
@pytest.mark.parametrize("name", families())
def test_checkpointing_is_counted_for_a_gpu_in_16_bits(tmp_path, name: str) -> None:
    """What is computed again has the dtypes of autocast on a GPU, though there is none here; it saves less."""
    families()[name].write_tiny_base(tmp_path)
    counts = []
    for checkpointing in (False, True):
        base = dry_run(tmp_path, name).open("bf16", {"denoiser": LORA})
        counts.append(base.train_step(SETTINGS, 32, 2, 2, checkpointing=checkpointing))
    assert counts[1].saved < counts[0].saved
