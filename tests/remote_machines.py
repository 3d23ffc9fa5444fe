"""Machines that share nothing but a remote store: results and checkpoints that they publish and fetch."""

import hashlib

from faulty_files import faulty_remote

from dbrun.store.objects import sha256_of
from dbrun.store.store import Damage, Store
from dbrun.store.traces import Trace, trace_name

CONTENTS = {"12" * 32: {"a": b"one", "sub/b": b"two" * 900, "same": b"one"}, "34" * 32: {"a": b"one", "c": b""}}
"""Key → the files of its result; the two share a file."""
STEPS = {step: f"state after {step} steps".encode() for step in (2, 4, 6)}
RESUME_KEY = "ab" * 32


def machine(folder, files, mode="rw"):
    """A store of its own over the remote one, and the messages of its run."""
    remote, told = faulty_remote(files, mode)
    store = Store(folder, remote)
    store.prepare()
    return store, told


def publish(store, key, contents=None):
    folder = store.make_temp_folder()
    for name, data in (contents or CONTENTS[key]).items():
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_bytes(data)
    return store.publish("train", key, {"params": {}}, folder, seconds=1.0, durable=False)


def files_of(store, trace):
    root = store.objects.path(trace.digest)
    return {name: (root / name).read_bytes() for name in trace.files}


def save_checkpoint(store, step):
    path = store.work_folder(RESUME_KEY) / "checkpoints" / checkpoint_name(step)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(STEPS[step])
    return store.remote.save_checkpoint("train", RESUME_KEY, path)


def checkpoint_name(step):
    return f"step-{step:08}.{hashlib.sha256(STEPS[step]).hexdigest()}.safetensors"


def fetch_checkpoint(store, last_step=None):
    """The names of the checkpoints that are here after another machine's was fetched."""
    work = store.work_folder(RESUME_KEY)
    store.remote.fetch_checkpoint("train", RESUME_KEY, work, store.scratch / "x", last_step)
    paths = sorted(path for path in (work / "checkpoints").glob("*")) if work.exists() else []
    assert all(sha256_of(path) == path.name.split(".")[1] for path in paths)
    return [path.name for path in paths]


def go(store):
    """Take or compute two results, then go on with a training of STEPS that saves checkpoints."""
    for key in CONTENTS:
        found = store.look_up("train", key, "bytes")
        assert not isinstance(found, Damage)
        trace = found if isinstance(found, Trace) else publish(store, key)
        assert files_of(store, trace) == CONTENTS[key]
    done = fetch_checkpoint(store)
    for step in STEPS:
        if checkpoint_name(step) not in done:
            save_checkpoint(store, step)


def assert_heals(stores):
    """Of machines over a server that is well again, the first two may have to compute, the others find all results."""
    for number, store in enumerate(stores):
        for key in CONTENTS:
            found = store.look_up("train", key, "bytes")
            assert found or number < 2, f"{trace_name('train', key)} is never found again"
            if found is None:
                publish(store, key)
