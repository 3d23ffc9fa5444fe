"""A trainer on the tiny base and noise to train it on, for tests that take single steps."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from tiny_training import PROMPTS, load, lora
from torch import Tensor
from train_settings import changed, train_settings

from dbrun.options.optimizers import AdamW
from dbrun.options.schedules import Constant
from dbrun.training.batches import Batch
from dbrun.training.loop import Trainer
from dbrun.training.prompt_embeds import cached_prompts, live_prompts

BOTH = ("denoiser", "text_encoder")
SETTINGS = train_settings(steps=6, learning_rate=1e-2, accumulation=1, max_grad_norm=1.0, optimizer=AdamW(),
                    schedule=Constant(), precision="fp32", prior_weight=1.0, seed=0)


def trainer(home: Path, components: tuple[str, ...] = ("denoiser",), adapter: Mapping[str, Any] = {},
            of_base: bool = False, **changes: Any) -> Trainer:
    """A trainer of fresh adapters on the base in home; prompts come from the cache where only the denoiser learns."""
    model = load(home)
    encoded = model.encode_prompts(PROMPTS)
    for component in components:
        lora(component, model, **adapter)
    known, of_the_base = (cached_prompts(model, encoded) if components == ("denoiser",)
                          else live_prompts(model, PROMPTS) for _ in range(2))
    return Trainer(model, components, known, changed(SETTINGS, **changes), of_the_base if of_base else None)


def batch(number: int = 0, rows: int = 4, instances: int = 2) -> Batch:
    """Noise as pictures, other noise for each number."""
    draw = torch.Generator().manual_seed(number)
    x0, noise = (torch.randn(rows, 4, 8, 8, generator=draw) for _ in range(2))
    t = torch.randint(1000, (rows,), generator=draw)
    return Batch(x0, noise, t, (1,) * instances + (0,) * (rows - instances), instances)


def gone(trained: Trainer, until: int) -> Trainer:
    """The trainer after so many steps."""
    for number in range(len(trained.history), until):
        trained.step([batch(number)])
    return trained


def weights(trained: Trainer) -> dict[str, Tensor]:
    """What is to be used, by component and name."""
    return {f"{c}.{n}": t for c, state in trained.adapter_states().items() for n, t in state.items()}


def same(a: Mapping[str, Tensor], b: Mapping[str, Tensor]) -> bool:
    """Whether all tensors are equal to the bit."""
    return a.keys() == b.keys() and all(torch.equal(a[k], b[k]) for k in a)
