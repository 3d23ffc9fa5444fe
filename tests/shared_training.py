"""A tiny training that several processes share, in a module that each of them can import."""

from collections.abc import Mapping
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch
from picture_sets import picture_set
from tiny_training import PARAMS, PROMPTS, load, lora
from torch import distributed
from train_settings import Own, train_settings

from dbrun.adapters.attach import attach, match_layers
from dbrun.adapters.full import Full
from dbrun.training.batches import Batches
from dbrun.training.gradient_sync import GradientSync
from dbrun.training.loop import Trainer
from dbrun.training.prompt_embeds import cached_prompts, live_prompts

SETTINGS: dict[str, Any] = {
    "steps": 2, "learning_rate": 5e-3, "accumulation": 4, "max_grad_norm": 1.0, "optimizer": PARAMS.optimizer,
    "schedule": PARAMS.schedule, "precision": "fp32", "prior_weight": 0.5, "seed": 0}
State = tuple[dict[str, torch.Tensor], dict[str, Any]]
BOTH = ("denoiser", "text_encoder")
CASES: Mapping[str, dict[str, Any]] = {
    "adapter": {},
    "dropout": {"adapter": {"dropout": 0.5}},
    "two components, one of which stops": {"components": BOTH,
                                           "own": Own({"text_encoder": 1e-3}, {"text_encoder": 1})},
    "the base as target": {"of_base": True},
    "bf16": {"precision": "bf16"},
    "the whole component": {"whole": True},
    "without class pictures": {"halves": ("instance",)},
}
FAST = "adapter, by an all-reduce"
"""Case that gives other bits than one process."""


def train(home: Path, gradient_sync: GradientSync, *, size: int = 1, components: tuple[str, ...] = ("denoiser",),
          adapter: Mapping[str, Any] = {}, whole: bool = False, of_base: bool = False,
          halves: tuple[str, ...] = ("instance", "class"), **changes: Any) -> State:
    """The state after some steps. size: pictures of each half in a micro-batch."""
    model = load(home)
    conditions = cached_prompts(model, model.encode_prompts(PROMPTS))
    for component in components:
        if whole:
            module = model.module(component)
            attach(module, Full(type="full"), match_layers(module, ("*",), Full.layer_classes), seed=1)
        else:
            lora(component, model, **adapter)
    if components == BOTH:
        conditions = live_prompts(model, PROMPTS)
    trainer = Trainer(model, components, conditions, train_settings(**{**SETTINGS, **changes}),
                      conditions if of_base else None, gradient_sync)
    source = torch.Generator().manual_seed(0)
    pictures = [picture_set(half, [torch.randn(8, 8, 8, generator=source) for _ in range(5)], [n] * 5)
                for n, half in enumerate(halves)]
    batches = Batches(pictures, 0, size, 1000, lambda rows, randn: model.sample_x0(rows, randn, "none"))
    for _ in trainer.run(batches):
        pass
    checkpoint = trainer.checkpoint()
    return dict(checkpoint.tensors), dict(checkpoint.values)


def member(home: Path, rank: int, size: int, names: tuple[str, ...]) -> None:
    """One of several processes; each writes down where it stood in the end."""
    torch.set_num_threads(1)
    distributed.init_process_group("gloo", init_method=f"file://{home}/meeting", rank=rank, world_size=size,
                                   timeout=timedelta(seconds=60))
    states = {name: train(home, GradientSync(rank, size), **CASES[name]) for name in names}
    states[FAST] = train(home, GradientSync(rank, size, fast=True))
    torch.save(states, home / f"{rank}.pt")
