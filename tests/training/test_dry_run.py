"""Does the count of a dry run agree with what a real step saves, and with the memory that real tensors take?"""

from pathlib import Path

import pytest
import torch
from representatives import cases
from train_settings import train_settings

from dbrun.adapters.adapter_layers import matched_layers
from dbrun.adapters.attach import attach
from dbrun.adapters.lora import Lora
from dbrun.models.base import Sampling, families
from dbrun.models.offload import find_offload
from dbrun.options.optimizers import AdamW
from dbrun.options.schedules import Constant
from dbrun.stages.sources import BaseSource
from dbrun.stages.support.memory_phases import open_dry_run
from dbrun.training.batches import Batch
from dbrun.training.dry_run import DryRun
from dbrun.training.live_memory import LiveMemory, count_saved
from dbrun.training.loop import Trainer
from dbrun.training.prompt_embeds import cached_prompts

LORA = Lora.model_validate({"type": "lora", "rank": 2, "targets": "attention"})
SETTINGS = train_settings(steps=1, learning_rate=1e-3, batch_size=2, accumulation=1, max_grad_norm=1.0,
                          optimizer=AdamW(), schedule=Constant(), precision="fp32", prior_weight=1.0, seed=0)


def dry_run(folder: Path, family: str = "sd", offload: str | None = None) -> DryRun:
    # in 32 bits a GPU computes as a CPU does
    return open_dry_run(BaseSource("files:0", family, folder, None, {}, Sampling(2, 2.0)), "cuda", offload)


@pytest.mark.parametrize("offload", [None, "blocks"])
def test_a_step_is_counted_as_a_real_one_takes_it(tmp_path, offload: str | None) -> None:
    family = families()["sd"]
    family.write_tiny_base(tmp_path)
    model = family.load(tmp_path, device=torch.device("cpu"), dtype=torch.float32)
    with torch.no_grad():
        conditions = model.encode_prompts(["a photo 0", "a photo 1"])
    if offload is not None:
        model.weights.offloaded = "unet"
    module = model.denoiser
    whole = sum(parameter.nbytes for parameter in module.parameters())
    attach(module, LORA, matched_layers(family, module, "denoiser", LORA), seed=0)
    trainer = Trainer(model, ("denoiser",), cached_prompts(model, conditions), SETTINGS)
    x0 = torch.zeros(2, 4, 8, 8)
    batch = Batch(x0, torch.zeros_like(x0), torch.zeros(2, dtype=torch.int64), (0, 1), 2)
    with count_saved(module.parameters()) as saved:
        trainer.loss(batch)
    with LiveMemory() as live:
        trainer.loss(batch).total.backward()

    base = dry_run(tmp_path, offload=offload).open("fp32", {"denoiser": LORA})
    counted = base.train_step(SETTINGS, 32, 2, 2, checkpointing=False)
    assert counted.saved == saved.nbytes and counted.peak == live.peak
    resident = sum(parameter.nbytes for parameter in module.parameters())
    offloaded = find_offload(module)
    if offloaded is not None:
        resident -= offloaded.block_bytes
        assert offloaded.block_bytes > whole / 2
    assert base.weight_bytes("unet") == resident
    assert base.sample(32, 2) > 0


def test_storages_are_counted_once_and_until_they_are_freed() -> None:
    with LiveMemory() as live:
        first = torch.zeros(256)
        view = first.view(16, 16)
        second = view + 1
        assert live.live == live.peak == 2 * first.nbytes
        del first, view
        assert live.live == second.nbytes and live.peak == 2 * second.nbytes


@pytest.mark.parametrize("name", cases(families(), list(families()).index("sd")))
def test_checkpointing_is_counted_for_a_gpu_in_16_bits(tmp_path, name: str) -> None:
    """What is computed again has the dtypes of autocast on a GPU, though there is none here; it saves less."""
    families()[name].write_tiny_base(tmp_path)
    counts = []
    for checkpointing in (False, True):
        base = dry_run(tmp_path, name).open("bf16", {"denoiser": LORA})
        counts.append(base.train_step(SETTINGS, 32, 2, 2, checkpointing=checkpointing))
    assert counts[1].saved < counts[0].saved
