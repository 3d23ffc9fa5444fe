"""The device that arithmetic will run on, found without importing torch."""

from __future__ import annotations

import ctypes
import os
import re
import sys
from functools import cache
from importlib.util import find_spec
from pathlib import Path

from dbrun.options.precision import Precision
from dbrun.recipe.schema.launch import ONE_PROCESS, Launch, Threads
from dbrun.recipe.schema.model import Recipe
from dbrun.stages.sources import Numerics

DEV_FOLDER = Path("/dev")
CPU_INFO = Path("/proc/cpuinfo")
MIN_BF16_CAPABILITY = (8, 0)


def resolve_numerics(device: str, threads: Threads, launch: Launch = ONE_PROCESS) -> Numerics:
    """Device and CPU threads that `device` and `threads` of a recipe mean on this machine.

    threads: `auto` becomes the number of cores, shared evenly by the processes of a machine. On a GPU it becomes 0, so
    that it does not count in cache keys there.
    """
    resolved = resolve_device(device)
    if resolved != "cpu":
        return Numerics(resolved, 0)
    if isinstance(threads, int):
        return Numerics(resolved, threads)
    return Numerics(resolved, max(1, available_cores() // launch.processes_per_machine))


def available_cores() -> int:
    """Number of CPU cores that this process may use."""
    # macOS and Windows have no affinity
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def emulates_bf16() -> bool:
    """Whether this CPU is known to compute in bf16 by way of fp32, number by number: torch's kernels need AVX-512."""
    try:
        text = CPU_INFO.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return False
    # flags of x86 processors alone
    found = re.search(r"^flags\s*:(.*)$", text, re.MULTILINE)
    return found is not None and "avx512bw" not in found[1].split()


def resolve_device(device: str) -> str:
    """Device name: cuda, mps or cpu. `auto` becomes the first of these that this machine has."""
    if device != "auto":
        return device
    return next(name for name in ("cuda", "mps", "cpu") if why_unavailable(name) is None)


def resolve_for_device(recipe: Recipe, device: str) -> Recipe:
    """The recipe as it runs on a device: with its name, and with the precision that suits it for `auto`."""
    if recipe.device != device:
        recipe = recipe.model_copy(update={"device": device})
    if recipe.train.precision != "auto":
        return recipe
    precision: Precision = "fp32"
    if device == "cuda":
        capability = _compute_capability()
        # tensor cores for bf16 came with 8.0 (Ampere); where the driver tells nothing, 32 bits are right everywhere
        if capability is not None:
            precision = "bf16" if capability >= MIN_BF16_CAPABILITY else "fp16"
    return recipe.model_copy(update={"train": recipe.train.model_copy(update={"precision": precision})})


def _compute_capability() -> tuple[int, int] | None:
    """Compute capability of the first GPU, (major, minor), asked from NVIDIA's driver; None where there is none."""
    major, minor = ctypes.c_int(), ctypes.c_int()
    if not _ask_first_gpu("nvmlDeviceGetCudaComputeCapability", ctypes.byref(major), ctypes.byref(minor)):
        return None
    return major.value, minor.value


def _ask_first_gpu(function: str, *results: object) -> bool:
    """Call a function of NVIDIA's driver library for the first GPU; whether it has filled in its results."""
    try:
        nvml = ctypes.CDLL("libnvidia-ml.so.1")
    except OSError:
        return False
    if nvml.nvmlInit_v2():
        return False
    try:
        handle = ctypes.c_void_p()
        if nvml.nvmlDeviceGetHandleByIndex_v2(0, ctypes.byref(handle)):
            return False
        # 0 is success
        return not nvml[function](handle, *results)
    finally:
        nvml.nvmlShutdown()


def device_memory(device: str) -> int | None:
    """Bytes of memory of a device of this machine, without torch; None where it does not tell.

    A GPU is asked through NVIDIA's driver; for others it is the memory of the machine.
    """
    if device != "cuda":
        try:
            return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
        except (ValueError, OSError):
            return None
    # nvmlMemory_t: total, free, used
    memory = (ctypes.c_ulonglong * 3)()
    if not _ask_first_gpu("nvmlDeviceGetMemoryInfo", memory):
        return None
    return int(memory[0])


def why_unavailable(device: str) -> str | None:
    """Reason why this machine cannot use the device; None if it can, as far as that is seen without torch."""
    if device == "cuda":
        # ROCm builds of torch call their device `cuda` too
        if not _torch_built_for("cuda", "hip"):
            return "the installed torch has no CUDA"
        return None if _has_gpu() else "this machine has no CUDA device"
    if device == "mps":
        is_apple_silicon = sys.platform == "darwin" and os.uname().machine == "arm64"
        return None if is_apple_silicon else "this machine is not a Mac with MPS"
    return None


def why_too_few_gpus(device: str, processes: int) -> str | None:
    """Reason why this machine cannot give each of `processes` a GPU of its own; None if no lack is seen."""
    if device != "cuda" or processes == 1:
        return None
    gpus = len(visible_gpus())
    # 0 is not a lack: WSL and ROCm show no such device files, and only torch can count their GPUs
    return f"each process needs a GPU: found {gpus} for {processes} processes" if 0 < gpus < processes else None


def visible_gpus() -> tuple[str, ...]:
    """NVIDIA's GPUs of this machine, as CUDA_VISIBLE_DEVICES names them; none on WSL and ROCm, where only torch can
    count them."""
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    if visible is not None:
        return tuple(name.strip() for name in visible.split(",") if name.strip() not in ("", "-1"))
    return tuple(map(str, range(len(list(DEV_FOLDER.glob("nvidia[0-9]*"))))))


def _has_gpu() -> bool:
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    if visible is not None and visible.strip() in ("", "-1"):
        return False
    # dxg is the GPU of WSL, kfd that of ROCm
    patterns = ("nvidia[0-9]*", "dxg") if _torch_built_for("cuda") else ("kfd",)
    return any(any(DEV_FOLDER.glob(pattern)) for pattern in patterns)


def _torch_built_for(*names: str) -> bool:
    return any(re.search(rf"^{name}\b[^=]*=\s*['\"]", _torch_version_text(), re.MULTILINE) for name in names)


@cache
def _torch_version_text() -> str:
    """Text of torch's version.py, which names its CUDA or HIP version; `import torch` would take seconds."""
    spec = find_spec("torch")
    if spec is None or spec.origin is None:
        return ""
    try:
        return (Path(spec.origin).parent / "version.py").read_text(encoding="utf-8")
    except OSError:
        return ""
