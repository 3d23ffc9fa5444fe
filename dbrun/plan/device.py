"""Which device will arithmetic run on? Answered without importing torch."""

from __future__ import annotations

import os
import re
import sys
from functools import cache
from importlib.util import find_spec
from pathlib import Path

from dbrun.stages.sources import Numerics

DEV_FOLDER = Path("/dev")


def resolve_numerics(device: str, threads: int) -> Numerics:
    """What `device` and `threads` of a recipe mean here; threads count only on a CPU."""
    resolved = resolve_device(device)
    return Numerics(resolved, threads if resolved == "cpu" else 0)


def resolve_device(device: str) -> str:
    """cuda, mps or cpu; `auto` takes the first of these that is here."""
    if device != "auto":
        return device
    return next(name for name in ("cuda", "mps", "cpu") if why_unavailable(name) is None)


def why_unavailable(device: str) -> str | None:
    """What is missing for this device on this machine, None if nothing is."""
    if device == "cuda":
        if not _torch_built_for("cuda", "hip"):
            return "the installed torch has no CUDA"
        return None if _has_gpu() else "no CUDA device is here"
    if device == "mps":
        here = sys.platform == "darwin" and os.uname().machine == "arm64"
        return None if here else "this is no Mac with MPS"
    return None


def why_too_few_gpus(device: str, processes: int) -> str | None:
    """What is missing for so many processes on this machine, each with a GPU of its own; None if nothing is seen."""
    if device != "cuda" or processes == 1:
        return None
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    here = len(visible.split(",")) if visible else len(list(DEV_FOLDER.glob("nvidia[0-9]*")))
    # where the system shows no such device there may be others, which only torch can count
    return f"{processes} processes want a GPU each, and {here} are here" if 0 < here < processes else None


def _has_gpu() -> bool:
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    if visible is not None and visible.strip() in ("", "-1"):
        return False
    nodes = ("nvidia[0-9]*", "dxg") if _torch_built_for("cuda") else ("kfd",)
    return any(True for pattern in nodes for _ in DEV_FOLDER.glob(pattern))


def _torch_built_for(*names: str) -> bool:
    return any(re.search(rf"^{name}\b[^=]*=\s*['\"]", _torch_version_text(), re.MULTILINE) for name in names)


@cache
def _torch_version_text() -> str:
    spec = find_spec("torch")
    if spec is None or spec.origin is None:
        return ""
    try:
        return (Path(spec.origin).parent / "version.py").read_text(encoding="utf-8")
    except OSError:
        return ""
