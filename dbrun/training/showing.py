"""How does a model in training draw a picture, and then go on as if it had not?"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch

from dbrun.training.loop import Trainer
from dbrun.training.param_groups import eval_mode


@contextmanager
def sampling_mode(trainer: Trainer) -> Iterator[None]:
    """While this is open the weights are those to be used, at rest; then weights, modes and random state are back."""
    devices = [torch.cuda.current_device()] if trainer.model.device.type == "cuda" else []
    with (trainer.eval_weights(), eval_mode(trainer.modules.values()), trainer.autocast(),
          torch.random.fork_rng(devices)):
        yield
