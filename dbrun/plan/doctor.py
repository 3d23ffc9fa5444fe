"""Checks of this machine for `dbrun doctor`: devices, memory, disk, login, packages; without torch or network."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

from dbrun.disk_space import nearest_existing
from dbrun.library_versions import installed_version
from dbrun.plan import device
from dbrun.resolve import hub
from dbrun.store.store import Store

LOW_MEMORY, LOW_DISK = 2 << 30, 2 << 30
"""Free bytes of memory and of disk below which a check says so."""


@dataclass(frozen=True)
class Check:
    """One checked thing. state: ok, note or bad; found: text for people; fix: what to do if the state is not ok."""

    name: str
    state: str
    found: str
    fix: str | None = None

    def to_json(self) -> dict[str, object]:
        """Check as JSON data."""
        return asdict(self)


def run_checks(store: Store) -> list[Check]:
    """All checks, in the order in which they are shown."""
    return [*_python(), *_devices(), *_memory(), *_disk("store", store.root),
            *_disk("Hub cache", hub.cache_folder()), _login(), *_libraries()]


def _python() -> Iterator[Check]:
    import dbrun

    yield Check("dbrun", "ok", f"{dbrun.__version__}, in {Path(dbrun.__file__).parent}")
    yield Check("Python", "ok", f"{sys.version.split()[0]}, {sys.executable}")


def _devices() -> Iterator[Check]:
    chosen = device.resolve_device("auto")
    if chosen == "cpu":
        yield Check("device: auto", "note", "chooses cpu", "bases of 512 pixels and more need a GPU")
    else:
        yield Check("device: auto", "ok", f"chooses {chosen}")
    for name in ("cuda", "mps"):
        lack = device.why_unavailable(name)
        # a note, not bad: a machine needs one device, not all
        state = "ok" if lack is None else "note"
        yield Check(name, state, lack or "there")
    for name, driver, free, total in list_gpus():
        yield Check("GPU", "ok", f"{name}, driver {driver}, {free} of {total} free")
    cores = device.available_cores()
    if chosen == "cpu" and cores > 1:
        yield Check("CPU", "note", f"{cores} cores, of which a recipe uses one unless it sets `threads`",
                    "`threads: auto` uses all of them")
    else:
        yield Check("CPU", "ok", f"{cores} cores")


def list_gpus() -> list[tuple[str, str, str, str]]:
    """Name, driver, free and total memory of each NVIDIA GPU, as `nvidia-smi` says; [] without it."""
    if shutil.which("nvidia-smi") is None:
        return []
    command = ["nvidia-smi", "--query-gpu=name,driver_version,memory.free,memory.total", "--format=csv,noheader"]
    try:
        # a driver that hangs must not hang the command that is to find it
        done = subprocess.run(command, capture_output=True, text=True, timeout=10, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return []
    if done.returncode != 0:
        return []
    gpus = []
    for line in done.stdout.splitlines():
        match line.split(", "):
            case [name, driver, free, total]:
                gpus.append((name, driver, free, total))
    return gpus


def _memory() -> Iterator[Check]:
    try:
        text = Path("/proc/meminfo").read_text(encoding="ascii", errors="replace")
    except OSError:
        # only Linux has this file
        return
    sizes = {name: int(kib) * 1024 for name, kib in re.findall(r"^(\w+):\s+(\d+) kB", text, re.MULTILINE)}
    # MemAvailable, not MemFree: the page cache can be given back
    free, total = sizes.get("MemAvailable", 0), sizes.get("MemTotal", 0)
    text = f"{_gib(free)} of {_gib(total)} free"
    if free < LOW_MEMORY:
        yield Check("memory", "note", text, "close other programs")
    else:
        yield Check("memory", "ok", text)


def _disk(name: str, folder: Path) -> Iterator[Check]:
    # a store that was never used is no folder yet; the nearest one above it has the same disk
    existing = nearest_existing(folder)
    free = shutil.disk_usage(existing).free
    if not os.access(existing, os.W_OK):
        variable = "DBRUN_STORE" if name == "store" else "HF_HOME"
        yield Check(name, "bad", f"{folder} cannot be written",
                    f"make it writable, or choose another place ({variable} moves it)")
    elif free < LOW_DISK:
        yield Check(name, "note", f"{folder}, {_gib(free)} free", "dbrun gc frees what nothing needs")
    else:
        yield Check(name, "ok", f"{folder}, {_gib(free)} free")


def _login() -> Check:
    """Check for a token of the Hub. It is neither shown nor tried: this works without the network."""
    home = Path(os.path.expandvars(os.environ.get("HF_HOME") or "~/.cache/huggingface")).expanduser()
    file = Path(os.environ.get("HF_TOKEN_PATH") or home / "token")
    offline = "; HF_HUB_OFFLINE is set, so the Hub is not asked" if hub.is_offline() else ""
    # the Hub's library too takes the variable before the file
    if os.environ.get("HF_TOKEN"):
        return Check("Hub login", "ok", f"a token in HF_TOKEN{offline}")
    if file.is_file():
        return Check("Hub login", "ok", f"a token in {file}{offline}")
    return Check("Hub login", "note", f"none{offline}", "hf auth login, for bases that ask for it")


def _libraries() -> Iterator[Check]:
    """Checks of the packages that dbrun needs, against the versions that its metadata allows."""
    from importlib.metadata import PackageNotFoundError, requires

    from packaging.requirements import Requirement

    try:
        # optional packages are checked by the stages that need them
        lines = [line for line in requires("dbrun") or () if "extra ==" not in line]
    except PackageNotFoundError:
        # dbrun runs from a source tree that was never installed
        lines = []
    for requirement in map(Requirement, lines):
        name, version = requirement.name, installed_version(requirement.name)
        if version != "absent" and requirement.specifier.contains(version, prereleases=True):
            yield Check(name, "ok", version)
        else:
            yield Check(name, "bad", version, f"pip install '{name}{requirement.specifier}'")


def _gib(size: int) -> str:
    return f"{size / 2**30:.1f} GiB"
