"""Questions about the store and the outputs that runs of the stub stages leave."""

import os

from stub_world import go

from dbrun.store.store import Store
from dbrun.store.traces import Trace


def outputs(home):
    return {p.relative_to(home).as_posix(): p.read_bytes() for p in sorted((home / "outputs").rglob("*"))
            if p.is_file() and p.name != "dbrun.json"}


def sound(home):
    """Whether every trace stands on an artifact with all its bytes."""
    store = Store(home / "store")
    for path in (home / "store" / "traces").rglob("*.json"):
        stage = path.relative_to(home / "store" / "traces").parts[0]
        trace = store.look_up(stage, path.stem, "bytes")
        assert isinstance(trace, Trace), f"{stage} {trace}"


def finishes_alike(home, whole):
    sound(home)
    go(home)
    assert outputs(home) == whole
    assert go(home).ran == ()
    assert sorted(p.name for p in (home / "outputs").iterdir()) == ["stub"]
    assert list((home / "store" / "tmp").iterdir()) == []


def flip(artifact):
    """Change a byte of every file of an artifact, and put the size and the time back."""
    for file in (p for p in artifact.path.rglob("*") if p.is_file()):
        state, content = file.stat(), file.read_bytes()
        file.chmod(0o644)
        file.write_bytes(bytes([content[0] ^ 1]) + content[1:])
        os.utime(file, ns=(state.st_atime_ns, state.st_mtime_ns))
