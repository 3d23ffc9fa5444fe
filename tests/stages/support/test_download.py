"""Does a download go on inside a file, with no byte asked for twice, and is what cannot be fetched told before?"""

import hashlib
import os
import signal
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from local_hub import COMMIT, PIECE, RepoHub, ask_here, serving

from dbrun.errors import HubUnreachable, RecipeError, StageFailed
from dbrun.stages.support import download
from dbrun.stages.support.resumable_file import PART_SUFFIX

NAME, SIZE = "unet/model.safetensors", 16 * PIECE
HALF = SIZE // 2


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[RepoHub]:
    """A large and a small file; the library of this process asks here."""
    (tmp_path / "base/unet").mkdir(parents=True)
    (tmp_path / "base" / NAME).write_bytes(os.urandom(SIZE))
    (tmp_path / "base/model_index.json").write_text("{}")
    with serving(RepoHub(tmp_path / "base")) as served:
        ask_here(served, tmp_path / "cache", monkeypatch)
        yield served


def fetched(notes: list[str] | None = None) -> Path:
    told = [] if notes is None else notes
    return download.download("owner/name", COMMIT, lambda names: names, lambda done, total: None, note=told.append)


def blobs(hub: RepoHub) -> Path:
    return hub.folder.parent / "cache/models--owner--name/blobs"


def large(hub: RepoHub) -> list[tuple[int, int]]:
    """(first byte, bytes sent) of each request for the large file."""
    return [(sent.start, sent.count) for sent in hub.sent if sent.name == NAME]


def test_a_file_whose_connection_drops_goes_on_where_it_ended(hub: RepoHub) -> None:
    hub.cut[NAME] = HALF
    with pytest.raises(HubUnreachable, match="could not be fetched from the Hub"):
        fetched()
    # within one run the library itself asks for the rest, six times in vain
    assert large(hub)[0] == (0, HALF) and all(request == (HALF, 0) for request in large(hub)[1:])
    hub.sent.clear(), hub.cut.clear()
    notes: list[str] = []
    folder = fetched(notes)
    assert large(hub) == [(HALF, SIZE - HALF)] and hub.names == [NAME]
    assert (folder / NAME).read_bytes() == (hub.folder / NAME).read_bytes()
    assert "goes on: 128 KiB of 256 KiB are left" in notes[0] and "are free in" in notes[0]
    assert not list(blobs(hub).glob(f"*{PART_SUFFIX}"))
    hub.sent.clear()
    assert fetched(notes) == folder and hub.sent == [] and len(notes) == 1


def test_a_download_that_was_killed_goes_on_where_it_ended(hub: RepoHub) -> None:
    hub.slow[NAME] = 0.02
    child = os.fork()
    if not child:
        try:
            fetched()
        finally:
            os._exit(1)
    wait_until(lambda: bool(large(hub)) and large(hub)[0][1] >= HALF)
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    here = next(blobs(hub).glob(f"*{PART_SUFFIX}")).stat().st_size
    hub.sent.clear(), hub.slow.clear()
    folder = fetched()
    assert large(hub) == [(here, SIZE - here)] and here >= HALF - 2 * PIECE
    assert (folder / NAME).read_bytes() == (hub.folder / NAME).read_bytes()


def wait_until(ready: object) -> None:
    end = time.monotonic() + 60
    while not ready():  # type: ignore[operator]
        assert time.monotonic() < end
        time.sleep(0.01)


def test_wrong_bytes_are_refused_and_fetched_anew(hub: RepoHub) -> None:
    hub.wrong.add(NAME)
    with pytest.raises(StageFailed, match="arrived damaged") as caught:
        fetched()
    assert "fetched from its start" in str(caught.value.fix)
    digest = hashlib.sha256((hub.folder / NAME).read_bytes()).hexdigest()
    assert not [path for path in blobs(hub).iterdir() if path.name.startswith(digest)]
    hub.wrong.clear()
    assert (fetched() / NAME).read_bytes() == (hub.folder / NAME).read_bytes()


def test_a_part_that_is_longer_than_the_file_is_thrown_away(hub: RepoHub) -> None:
    blobs(hub).mkdir(parents=True)
    digest = hashlib.sha256((hub.folder / NAME).read_bytes()).hexdigest()
    (blobs(hub) / f"{digest}{PART_SUFFIX}").write_bytes(b"x" * (SIZE + 1))
    fetched()
    assert large(hub) == [(0, SIZE)]


def told(revision: str = "main", repo: str = "owner/name") -> str | None:
    return download.describe_download(repo, revision, lambda names: names)


def test_what_the_hub_refuses_is_told_with_what_to_do(hub: RepoHub, monkeypatch: pytest.MonkeyPatch) -> None:
    def refusal(**asked: str) -> str:
        with pytest.raises(RecipeError) as caught:
            told(**asked)
        return str(caught.value)

    assert "has no revision other" in refusal(revision="other") and "base.revision" in refusal(revision="d" * 40)
    assert "shows no model owner/other" in refusal(repo="owner/other")
    hub.gated = "manual"
    assert "is gated" in refusal() and "https://huggingface.co/owner/name" in refusal() and "HF_TOKEN" in refusal()
    hub.gated, hub.token = False, "right"
    monkeypatch.setenv("HF_TOKEN", "wrong")
    assert "its token is not valid" in refusal()
    monkeypatch.setenv("HF_TOKEN", "right")
    assert "takes 256 KiB" in str(told())
    assert hub.sent == []


def test_a_download_is_told_before_and_refused_where_the_disk_has_no_room(hub: RepoHub,
                                                                        monkeypatch: pytest.MonkeyPatch) -> None:
    assert "the download of owner/name takes 256 KiB; " in str(told())
    monkeypatch.setattr("dbrun.disk_space.free_bytes", lambda folder: SIZE)
    for ask in (told, fetched):
        with pytest.raises(StageFailed, match="needs up to 256 KiB"):
            ask()
    assert hub.sent == []
    # what is here needs no room again
    blobs(hub).mkdir(parents=True)
    data = (hub.folder / NAME).read_bytes()
    (blobs(hub) / f"{hashlib.sha256(data).hexdigest()}{PART_SUFFIX}").write_bytes(data[:HALF])
    fetched()
    assert large(hub) == [(HALF, SIZE - HALF)] and told() is None
