"""The device, its arithmetic settings, and seeded random generators."""

from __future__ import annotations

import ctypes
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Protocol

import torch
from torch import nn

from dbrun.errors import StageFailed
from dbrun.seeds import derive_seed

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
"""`train.precision` -> the dtype of the frozen base and of the forward pass."""
CUBLAS_WORKSPACE = "CUBLAS_WORKSPACE_CONFIG"
"""Variable that cuBLAS reads the size of its workspace from."""
M_MMAP_THRESHOLD, MMAP_THRESHOLD = -3, 2**20
"""glibc's number of the parameter (mallopt(3)), and the bytes from which a block is a mapping of its own."""


class DeviceSettings(Protocol):
    """The device and the number of CPU threads of a run."""

    @property
    def device(self) -> str:
        """cuda, mps or cpu."""

    @property
    def threads(self) -> int:
        """CPU threads, or 0 for torch's own choice."""


def settings_restorer() -> Callable[[], None]:
    """Function that makes what `set_up_device` and `allow_tf32` change for the whole process as it is now.

    So is torch's global generator of the CPU, which libraries draw weights from that they then overwrite.
    """
    threads, workspace = torch.get_num_threads(), os.environ.get(CUBLAS_WORKSPACE)
    cudnn, matmul = torch.backends.cudnn, torch.backends.cuda.matmul
    flags = cudnn.allow_tf32, matmul.allow_tf32, cudnn.deterministic, cudnn.benchmark
    generator = torch.random.get_rng_state()

    def restore() -> None:
        torch.set_num_threads(threads)
        cudnn.allow_tf32, matmul.allow_tf32, cudnn.deterministic, cudnn.benchmark = flags
        torch.random.set_rng_state(generator)
        if workspace is None:
            os.environ.pop(CUBLAS_WORKSPACE, None)
        else:
            os.environ[CUBLAS_WORKSPACE] = workspace

    return restore


@contextmanager
def restored_settings() -> Iterator[None]:
    """Context manager: on exit, the settings of `settings_restorer` are as before."""
    restore = settings_restorer()
    try:
        yield
    finally:
        restore()


def set_up_device(numerics: DeviceSettings, local: int = 0) -> torch.device:
    """Set torch up for deterministic arithmetic and return the device.

    local: the rank of this process on its machine, which takes the GPU with that number. Raises StageFailed where torch
    finds no such device.
    """
    available = {"cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available(), "cpu": True}
    if not available[numerics.device]:
        raise StageFailed(f"the run is planned for {numerics.device}, but torch {torch.__version__} finds none here",
                          fix="set `device: cpu`, or install a torch built for this machine")
    if numerics.threads:
        torch.set_num_threads(numerics.threads)
    # cuBLAS is deterministic only with a workspace of fixed size; it must be set before the first product
    os.environ[CUBLAS_WORKSPACE] = ":4096:8"
    # fp32 means 32 bits: no TF32 in convolutions or matrix products
    torch.backends.cudnn.allow_tf32 = torch.backends.cuda.matmul.allow_tf32 = False
    torch.backends.cudnn.deterministic = True
    # benchmarking picks the fastest convolution of the moment, so that two runs may differ in their last bits
    torch.backends.cudnn.benchmark = False
    if numerics.device != "cuda":
        return torch.device(numerics.device)
    if local >= torch.cuda.device_count():
        raise StageFailed(f"process {local} of this machine finds only {torch.cuda.device_count()} GPUs",
                          fix="set `launch.processes` to the number of GPUs, or `device: cpu`")
    torch.cuda.set_device(local)
    return torch.device("cuda", local)


def return_freed_memory() -> None:
    """Let CPU memory of tensors go back to the system as soon as it is freed, where the C library is glibc.

    For bases of some size: the steps of a small one take longer.
    """
    # glibc raises its threshold up to 32 MiB as blocks are freed, and its heap falls to pieces (measured: a step of
    # 178 MiB of tensors under gradient checkpointing took 643 MiB, and of SD 1.5's freed weights 1.9 GiB stayed). Each
    # mapping is filled with zeros anew, page by page: a step of the embedded base took 7 % longer. With mappings from
    # 4 MiB on it took none, but a step with checkpointing 1.4 GiB in place of 0.8
    with suppress(OSError, AttributeError):
        ctypes.CDLL(None).mallopt(M_MMAP_THRESHOLD, MMAP_THRESHOLD)


def allow_tf32() -> None:
    """Allow TF32 in 32-bit convolutions and matrix products until the next `set_up_device`: faster, 10-bit mantissa."""
    torch.backends.cudnn.allow_tf32 = torch.backends.cuda.matmul.allow_tf32 = True


@contextmanager
def deterministic_algorithms(wanted: bool) -> Iterator[None]:
    """Context manager: switch torch's and cuDNN's deterministic algorithms on or off; restore all settings on exit.

    While they are on, an operation that has none raises RuntimeError. While they are off, cuDNN tries out which of its
    convolutions is the fastest for each shape.
    """
    cudnn = torch.backends.cudnn
    flags = cudnn.deterministic, cudnn.benchmark
    # torch's own kernels, too, such as those of attention, whose backward pass adds up in an order that changes from
    # run to run
    mode = torch.get_deterministic_debug_mode()
    torch.use_deterministic_algorithms(wanted)
    cudnn.deterministic, cudnn.benchmark = wanted, not wanted
    try:
        yield
    finally:
        torch.set_deterministic_debug_mode(mode)
        cudnn.deterministic, cudnn.benchmark = flags


@contextmanager
def channels_last(module: nn.Module) -> Iterator[None]:
    """Context manager: lay out the weights of convolutions as cuDNN's fastest ones read them; undo it on exit.

    Call it before an adapter is attached: its own small weights stay as they are, so that they can be joined.
    """
    module.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    try:
        yield
    finally:
        # safetensors writes no other layout
        module.to(memory_format=torch.contiguous_format)  # type: ignore[call-overload]


def generator(seed: int, *address: str | int) -> torch.Generator:
    """A CPU generator seeded for this address.

    Draw on the CPU and move the result to the device: every device then sees the same numbers.
    """
    return torch.Generator("cpu").manual_seed(derive_seed(seed, *address))


def draws_random(module: nn.Module) -> bool:
    """Whether a forward pass of the module may draw from torch's global generators, since it has a dropout."""
    for part in module.modules():
        for name, value in vars(part).items():
            # a rate of transformers' and peft's layers is named after what it drops; that of a dropout layer is `p`.
            # peft keeps one for each adapter
            if name != "p" and "drop" not in name:
                continue
            rates = value.values() if isinstance(value, dict) else [value]
            if any(isinstance(rate, int | float) and rate > 0 for rate in rates):
                return True
    return False


@contextmanager
def seeded_rng(seed: int, device: torch.device) -> Iterator[None]:
    """Context manager: seed torch's global generators, which dropout draws from; restore their state on exit."""
    # without a list fork_rng would save and restore the state of every GPU of the machine
    devices = [torch.cuda.current_device()] if device.type == "cuda" else []
    with torch.random.fork_rng(devices=devices):
        torch.manual_seed(seed)
        yield
