"""What does arithmetic run on, and where do random numbers come from?"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Protocol

import torch

from dbrun.errors import StageFailed
from dbrun.seeds import derive_seed

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
"""`train.precision` -> the dtype of the frozen base and of the forward pass."""


class DeviceSettings(Protocol):
    """Which device, and how many CPU threads; 0 where they change nothing."""

    @property
    def device(self) -> str:
        """cuda, mps or cpu."""

    @property
    def threads(self) -> int:
        """CPU threads, or 0 for torch's own choice."""


def set_up_device(numerics: DeviceSettings, local: int = 0) -> torch.device:
    """Set torch up for these numerics and give the device. Raises StageFailed where torch finds no such device.

    local: which process on this machine asks; each takes the GPU of its number.
    """
    found = {"cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available(), "cpu": True}
    if not found[numerics.device]:
        raise StageFailed(f"the run is planned for {numerics.device}, but torch {torch.__version__} finds none here",
                          fix="set `device: cpu`, or install a torch built for this machine")
    if numerics.threads:
        torch.set_num_threads(numerics.threads)
    os.environ["CUBLAS_WORKSPACE_CONFIG"] = ":4096:8"
    # fp32 means 32 bits: no TF32 in convolutions or matrix products
    torch.backends.cudnn.allow_tf32 = torch.backends.cuda.matmul.allow_tf32 = False
    torch.backends.cudnn.deterministic = True
    torch.backends.cudnn.benchmark = False
    if numerics.device != "cuda":
        return torch.device(numerics.device)
    if local >= torch.cuda.device_count():
        raise StageFailed(f"process {local} of this machine finds only {torch.cuda.device_count()} GPUs",
                          fix="set `launch.processes` to how many there are, or `device: cpu`")
    torch.cuda.set_device(local)
    return torch.device("cuda", local)


def allow_tf32() -> None:
    """Let convolutions and products of 32-bit matrices lose bits for speed, until the next `set_up_device`."""
    torch.backends.cudnn.allow_tf32 = torch.backends.cuda.matmul.allow_tf32 = True


def generator(seed: int, *address: str | int) -> torch.Generator:
    """A CPU generator for this address; move what it draws to the device, so that every device sees the same."""
    return torch.Generator("cpu").manual_seed(derive_seed(seed, *address))


@contextmanager
def seeded_rng(seed: int, device: torch.device) -> Iterator[None]:
    """Inside, dropout draws from this seed: it knows torch's global generators only, which are put back after."""
    devices = [torch.cuda.current_device()] if device.type == "cuda" else []
    with torch.random.fork_rng(devices=devices):
        torch.manual_seed(seed)
        yield
