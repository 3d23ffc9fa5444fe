"""What does this machine have that a run needs? Found out without torch and without the network."""

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


@dataclass(frozen=True)
class Check:
    """One thing looked at. state: ok, note or bad; fix: what to do where it is not ok."""

    name: str
    state: str
    found: str
    fix: str | None = None

    def as_json(self) -> dict[str, object]:
        """The check as plain data."""
        return asdict(self)


def run_checks(store: Store) -> list[Check]:
    """Everything, in the order in which people ask for it."""
    return [*_python(), *_devices(), *_memory(), *_disk("store", store.root),
            *_disk("Hub cache", hub.cache_folder()), _login(), *_libraries()]


def _python() -> Iterator[Check]:
    import dbrun

    yield Check("dbrun", "ok", f"{dbrun.__version__}, in {Path(dbrun.__file__).parent}")
    yield Check("Python", "ok", f"{sys.version.split()[0]}, {sys.executable}")


def _devices() -> Iterator[Check]:
    chosen = device.resolve_device("auto")
    yield Check("device: auto", "ok" if chosen != "cpu" else "note", f"takes {chosen}",
                None if chosen != "cpu" else "bases of 512 pixels and more want a GPU")
    for name in ("cuda", "mps"):
        lack = device.why_unavailable(name)
        yield Check(name, "ok" if lack is None else "note", lack or "there")
    for line in _gpus():
        yield Check("GPU", "ok", line)
    yield Check("CPU", "ok", f"{os.cpu_count()} cores")


def _gpus() -> list[str]:
    """Name, driver, free and whole memory of each, as NVIDIA's own tool says."""
    if shutil.which("nvidia-smi") is None:
        return []
    asked = ["nvidia-smi", "--query-gpu=name,driver_version,memory.free,memory.total", "--format=csv,noheader"]
    try:
        done = subprocess.run(asked, capture_output=True, text=True, timeout=10, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return []
    rows = [line.split(", ") for line in done.stdout.splitlines()] if done.returncode == 0 else []
    return [f"{row[0]}, driver {row[1]}, {row[2]} of {row[3]} free" for row in rows if len(row) == 4]


def _memory() -> Iterator[Check]:
    try:
        text = Path("/proc/meminfo").read_text(encoding="ascii", errors="replace")
    except OSError:
        return
    sizes = {name: int(kib) * 1024 for name, kib in re.findall(r"^(\w+):\s+(\d+) kB", text, re.MULTILINE)}
    free, whole = sizes.get("MemAvailable", 0), sizes.get("MemTotal", 0)
    short = free < LOW_MEMORY
    yield Check("memory", "note" if short else "ok", f"{_gib(free)} of {_gib(whole)} free",
                "close other programs" if short else None)


def _disk(name: str, folder: Path) -> Iterator[Check]:
    there = nearest_existing(folder)
    free = shutil.disk_usage(there).free
    if not os.access(there, os.W_OK):
        yield Check(name, "bad", f"{folder} cannot be written", "make it writable, or choose another place "
                    f"({'DBRUN_STORE' if name == 'store' else 'HF_HOME'} moves it)")
        return
    short = free < LOW_DISK
    yield Check(name, "note" if short else "ok", f"{folder}, {_gib(free)} free",
                "dbrun gc frees what nothing needs" if short else None)


def _login() -> Check:
    """Whether a token is there; it is neither shown nor tried."""
    home = Path(os.path.expandvars(os.environ.get("HF_HOME") or "~/.cache/huggingface")).expanduser()
    file = Path(os.environ.get("HF_TOKEN_PATH") or home / "token")
    found = "a token in HF_TOKEN" if os.environ.get("HF_TOKEN") else f"a token in {file}" if file.is_file() else None
    away = "; HF_HUB_OFFLINE is set, so the Hub is not asked" if hub.is_offline() else ""
    if found is not None:
        return Check("Hub login", "ok", found + away)
    return Check("Hub login", "note", f"none{away}", "hf auth login, for bases that ask for it")


def _libraries() -> Iterator[Check]:
    """The packages that dbrun needs, with the versions that it takes."""
    from importlib.metadata import PackageNotFoundError, requires

    from packaging.requirements import Requirement

    try:
        wanted = [line for line in requires("dbrun") or () if "extra ==" not in line]
    except PackageNotFoundError:
        wanted = []
    for requirement in map(Requirement, wanted):
        name, found = requirement.name, installed_version(requirement.name)
        good = found != "absent" and requirement.specifier.contains(found, prereleases=True)
        yield Check(name, "ok" if good else "bad", found,
                    None if good else f"pip install '{name}{requirement.specifier}'")


def _gib(size: int) -> str:
    return f"{size / 2**30:.1f} GiB"
