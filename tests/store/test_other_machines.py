"""A gc is refused where another machine works in the store and locks may not reach it."""

import pytest

from dbrun.errors import StageFailed
from dbrun.store import other_machines
from dbrun.store.gc import collect_garbage
from dbrun.store.other_machines import file_system
from dbrun.store.runs import LIVE_FILE
from dbrun.store.store import Store

MOUNTINFO = """\
21 1 8:1 / / rw,relatime shared:1 - ext4 /dev/sda1 rw
35 21 0:40 / {place} rw,relatime shared:9 - {kind} server:/export rw,vers=4.2
"""


@pytest.fixture
def store(tmp_path):
    """A store in which a run of another machine is alive."""
    store = Store(tmp_path / "a folder" / "store")
    store.prepare()
    run = store.runs / "20260101-000000.000000-dog"
    run.mkdir(parents=True)
    (run / LIVE_FILE).write_text("00000000-1-00000000.000000000000")
    return store


def mounted(store, tmp_path, monkeypatch, kind):
    """Let the store's folder be a mount of this type."""
    place = str(store.root.parent.resolve()).replace(" ", "\\040")
    (tmp_path / "mounts").write_text(MOUNTINFO.format(place=place, kind=kind))
    monkeypatch.setattr(other_machines, "MOUNTS", tmp_path / "mounts")
    assert file_system(store.root) == kind


@pytest.mark.parametrize("kind", ["nfs4", "lustre", "fuse.sshfs", "9p"])
def test_refused_on_a_network_file_system(store, tmp_path, monkeypatch, kind):
    mounted(store, tmp_path, monkeypatch, kind)
    with pytest.raises(StageFailed, match=f"run 2026.*locks on {kind}"):
        collect_garbage(store, 0, dry_run=False)
    collect_garbage(store, 0, dry_run=True)
    collect_garbage(store, 0, dry_run=False, force=True)


def test_goes_on_where_one_kernel_has_all_locks(store, tmp_path, monkeypatch):
    mounted(store, tmp_path, monkeypatch, "ext4")
    collect_garbage(store, 0, dry_run=False)


def test_goes_on_where_nobody_else_is_there(store, tmp_path, monkeypatch):
    mounted(store, tmp_path, monkeypatch, "nfs4")
    (store.runs / "20260101-000000.000000-dog" / LIVE_FILE).unlink()
    collect_garbage(store, 0, dry_run=False)
    # a worker of another machine has no record of a run
    (store.scratch / "00000000-1-00000000.000000000000").mkdir()
    with pytest.raises(StageFailed, match="its folder tmp/"):
        collect_garbage(store, 0, dry_run=False)
