"""Does a checkpoint come back whole, or not at all?"""

import os
import threading
from pathlib import Path

import pytest
import torch

from dbrun.training import checkpoint
from dbrun.training.checkpoint import Checkpoint, CheckpointWriter, load_newest, save_checkpoint


def checkpoint_at(step: int) -> Checkpoint:
    return Checkpoint(step, {"adapter/denoiser/a": torch.full((3, 2), step / 3), "optimizer/0/step": torch.tensor(2.0)},
                      {"history": [[1, 0.1, None]], "scaler": None, "optimizer": {"0": {"n": 3}}})


def steps(folder: Path) -> list[int]:
    return sorted(int(p.name[5:13]) for p in folder.glob("step-*"))


def test_what_was_published_comes_back_exactly(tmp_path: Path) -> None:
    save_checkpoint(tmp_path / "c", checkpoint_at(7), keep=2)
    found, damaged = load_newest(tmp_path / "c", at_most=10)
    assert found is not None and damaged == ()
    assert found.step == 7 and found.values == checkpoint_at(7).values
    assert found.tensors.keys() == checkpoint_at(7).tensors.keys()
    assert all(torch.equal(found.tensors[k], v) for k, v in checkpoint_at(7).tensors.items())


def test_no_folder_means_no_checkpoint(tmp_path: Path) -> None:
    assert load_newest(tmp_path / "none", at_most=10) == (None, ())


def test_the_newest_few_stay(tmp_path: Path) -> None:
    for step in (10, 20, 30, 40):
        save_checkpoint(tmp_path, checkpoint_at(step), keep=2)
    assert steps(tmp_path) == [30, 40]
    save_checkpoint(tmp_path, checkpoint_at(50), keep=1)
    assert steps(tmp_path) == [50]


@pytest.mark.parametrize("keep", [1, 2, 3, 4, 5, 6])
def test_as_many_stay_as_were_asked_for(tmp_path: Path, keep: int) -> None:
    for step in range(1, 9):
        save_checkpoint(tmp_path, checkpoint_at(step), keep=keep)
        assert steps(tmp_path) == list(range(max(1, step - keep + 1), step + 1))


def test_another_process_may_be_writing_one(tmp_path: Path) -> None:
    (tmp_path / ".step-00000009.x.safetensors.1").write_bytes(b"half")
    (tmp_path / ".step-00000003.x.safetensors.1").write_bytes(b"old")
    os.utime(tmp_path / ".step-00000003.x.safetensors.1", (0, 0))
    save_checkpoint(tmp_path, checkpoint_at(10), keep=2)
    assert [p.name[:14] for p in tmp_path.glob(".step-*")] == [".step-00000009"]


def test_a_shorter_run_takes_none_beyond_its_end_and_drops_none_of_them(tmp_path: Path) -> None:
    for step in (10, 90, 100):
        save_checkpoint(tmp_path, checkpoint_at(step), keep=5)
    found, _ = load_newest(tmp_path, at_most=50)
    assert found is not None and found.step == 10
    save_checkpoint(tmp_path, checkpoint_at(20), keep=1)
    assert steps(tmp_path) == [20, 90, 100]


def test_publishing_a_step_again_replaces_it(tmp_path: Path) -> None:
    assert save_checkpoint(tmp_path, checkpoint_at(10), keep=2) == save_checkpoint(tmp_path, checkpoint_at(10), keep=2)
    assert steps(tmp_path) == [10]


@pytest.mark.parametrize("place", [0, 20, 200, 0.5, -1])
def test_a_flipped_bit_anywhere_is_found_and_the_older_one_used(tmp_path: Path, place: float) -> None:
    save_checkpoint(tmp_path, checkpoint_at(10), keep=2)
    path = save_checkpoint(tmp_path, checkpoint_at(20), keep=2)
    content = bytearray(path.read_bytes())
    content[int(place * len(content)) if isinstance(place, float) else place] ^= 4
    path.write_bytes(content)
    found, damaged = load_newest(tmp_path, at_most=100)
    assert found is not None and found.step == 10 and damaged == (path.name,)
    save_checkpoint(tmp_path, checkpoint_at(20), keep=2)
    assert load_newest(tmp_path, at_most=100)[1] == ()


def test_a_checkpoint_of_another_format_is_left_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    save_checkpoint(tmp_path, checkpoint_at(10), keep=2)
    with monkeypatch.context() as later:
        later.setattr(checkpoint, "FORMAT", "dbrun/checkpoint/1")
        path = save_checkpoint(tmp_path, checkpoint_at(20), keep=2)
    found, damaged = load_newest(tmp_path, at_most=100)
    assert found is not None and found.step == 10 and damaged == (path.name,)


@pytest.mark.parametrize("length", [0, 5, 100])
def test_a_cut_off_file_is_found(tmp_path: Path, length: int) -> None:
    path = save_checkpoint(tmp_path, checkpoint_at(10), keep=2)
    path.write_bytes(path.read_bytes()[:length])
    assert load_newest(tmp_path, at_most=100) == (None, (path.name,))


def test_a_half_written_file_is_never_taken_and_is_cleared_away(tmp_path: Path) -> None:
    path = save_checkpoint(tmp_path, checkpoint_at(10), keep=2)
    beside = tmp_path / f".{path.name.replace('10', '20')}.123"
    beside.write_bytes(path.read_bytes()[:50])
    os.utime(beside, (0, 0))
    found, damaged = load_newest(tmp_path, at_most=100)
    assert found is not None and found.step == 10 and damaged == ()
    save_checkpoint(tmp_path, checkpoint_at(30), keep=2)
    assert not beside.exists()


def test_the_old_stands_until_the_new_one_does(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    save_checkpoint(tmp_path, checkpoint_at(10), keep=1)

    def full(self: Path, target: Path) -> Path:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "replace", full)
    with pytest.raises(OSError, match="No space"):
        save_checkpoint(tmp_path, checkpoint_at(20), keep=1)
    monkeypatch.undo()
    found, _ = load_newest(tmp_path, at_most=100)
    assert found is not None and found.step == 10


@pytest.mark.parametrize("device", ["cpu", "cuda"])
def test_a_writer_keeps_the_order_and_tells_what_it_could_not_write(tmp_path: Path, device: str) -> None:
    writer = CheckpointWriter(tmp_path, 2, torch.device(device))
    for step in (10, 20, 30):
        writer.write(checkpoint_at(step))
    writer.wait()
    assert steps(tmp_path) == [20, 30]
    # a file where a folder is wanted
    writer.folder = next(tmp_path.glob("step-*"))
    with pytest.raises(OSError):
        writer.write(checkpoint_at(40))
        # a later write tells what became of the one before
        writer.write(checkpoint_at(50))
    assert writer._writing is None
    # told once
    writer.wait()
    writer.close()


def test_a_step_on_a_gpu_does_not_wait_for_the_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    disk = threading.Event()
    monkeypatch.setattr(checkpoint, "save_checkpoint", lambda *words, **named: disk.wait(20))
    writer = CheckpointWriter(tmp_path, 2, torch.device("cuda"))
    writer.write(checkpoint_at(10))
    assert writer._writing is not None and not writer._writing.done()
    disk.set()
    writer.close()
    assert writer._writing.result() is True
