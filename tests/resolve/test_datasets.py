"""Are the pictures of a data set of the Hub those of its commit, all of them, and asked for only once?"""

import json

import huggingface_hub
import pytest
from fake_base import fake_base
from huggingface_hub.hf_api import RepoFile
from PIL import Image

from dbrun.errors import RecipeError, StageFailed
from dbrun.recipe.load import load_recipe
from dbrun.recipe.text.spans import InvalidRecipe
from dbrun.resolve import hub
from dbrun.resolve.datasets import fetch_datasets, select_dataset_files
from dbrun.resolve.sources import resolve_sources
from dbrun.store.store import Store

COMMIT, LATER = "c" * 40, "d" * 40
RECIPE = f"""\
schema: dbrun/v1
name: x
base: {{path: base}}
subject: {{images: owner/set, revision: {COMMIT}, captions: {{type: metadata}}}}
images: {{resolution: 64}}
adapt: {{denoiser: {{type: lora}}}}
"""
FILES = ("README.md", "train/metadata.jsonl", "train/a.png", "train/more/b.png", "test/x.png", "train/../evil.png")


class Served:
    """Stands for the Hub: puts files into the cache as its library does, and remembers what was asked."""

    def __init__(self, cache, names=FILES, commit=COMMIT):
        self.home, self.names, self.commit, self.asked = cache / "datasets--owner--set", names, commit, []
        self.breaks_at = None

    def dataset_info(self, repo, revision, timeout):
        self.asked.append(revision)
        return type("Info", (), {"sha": self.commit})

    def list_repo_tree(self, repo, *, recursive, revision, repo_type):
        assert (repo, repo_type, recursive) == ("owner/set", "dataset", True)
        self.asked.append(revision)
        return [RepoFile(path=name, size=1000, oid=name.replace("/", "_")) for name in self.names]

    def hf_hub_download(self, repo, name, revision, repo_type):
        if name == self.breaks_at:
            raise OSError("no network")
        self.asked.append(name)
        blob, link = self.home / "blobs" / name.replace("/", "_"), self.home / "snapshots" / revision / name
        blob.parent.mkdir(parents=True, exist_ok=True)
        link.parent.mkdir(parents=True, exist_ok=True)
        if name.endswith(".png"):
            Image.new("RGB", (40, 30), "red" if "a" in name else "blue").save(blob, format="PNG")
        else:
            rows = [{"file_name": n, "text": f"caption of {n}"} for n in ("a.png", "more/b.png")]
            blob.write_text("\n".join(map(json.dumps, rows)))
        if not link.is_symlink():
            link.symlink_to(blob)
        return str(link)


@pytest.fixture
def project(tmp_path, monkeypatch):
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setenv("HF_HUB_OFFLINE", "0")
    monkeypatch.delenv("TRANSFORMERS_OFFLINE", raising=False)
    fake_base(tmp_path / "base")
    (tmp_path / "r.yaml").write_text(RECIPE)
    return tmp_path


@pytest.fixture
def served(project, monkeypatch):
    served = Served(project / "hub")
    monkeypatch.setattr(huggingface_hub, "HfApi", lambda: served)
    monkeypatch.setattr(huggingface_hub, "hf_hub_download", served.hf_hub_download)
    return served


def go(project, *overrides, online=True):
    """What `run` does before it plans; offline, what `plan` does."""
    loaded, store, told = load_recipe(project / "r.yaml", overrides), Store(project / "store"), []
    if online:
        fetch_datasets(loaded, store, told.append)
    return resolve_sources(loaded, store), told


def test_a_data_set_is_fetched_once_and_only_what_is_read(project, served):
    with pytest.raises(RecipeError, match=r"r\.yaml:4:(?s:.*)is not in (?s:.*)`dbrun run` fetches it"):
        go(project, online=False)
    found, told = go(project)
    assert served.asked == [COMMIT, "train/a.png", "train/metadata.jsonl", "train/more/b.png"]
    assert sorted(p.prompt for p in found.sources.pictures) == ["caption of a.png", "caption of more/b.png"]
    assert told[0].text.startswith("fetching the data set owner/set at cccc") and told[-1].total == 3
    assert not any("as it lies" in note.text for note in found.notes)
    served.asked.clear()
    again, told = go(project)
    assert again.sources == found.sources and not served.asked and not told
    assert go(project, online=False)[0].sources == found.sources


def test_what_was_cut_off_is_not_taken_for_the_whole(project, served):
    served.breaks_at = "train/more/b.png"
    with pytest.raises(StageFailed, match="no network"):
        go(project)
    served.breaks_at = None
    assert len(go(project)[0].sources.pictures) == 2
    next((project / "hub").rglob("snapshots/*/train/more/b.png")).unlink()
    served.asked.clear()
    assert len(go(project)[0].sources.pictures) == 2 and "train/more/b.png" in served.asked


def test_without_the_network_what_lies_in_the_cache_serves_and_that_is_said(project, served, monkeypatch):
    for name in ("train/metadata.jsonl", "train/a.png", "train/more/b.png"):
        served.hf_hub_download("owner/set", name, COMMIT, "dataset")
    served.asked.clear()
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    found, _ = go(project)
    assert len(found.sources.pictures) == 2 and not served.asked
    assert any("is taken as it is in" in note.text for note in found.notes)
    with pytest.raises(RecipeError, match="unset HF_HUB_OFFLINE"):
        go(project, f"subject.revision={LATER}")


def test_the_folder_is_the_one_that_the_hubs_library_finds(project, served):
    go(project)
    theirs = huggingface_hub.snapshot_download("owner/set", repo_type="dataset", revision=COMMIT,
                                               cache_dir=project / "hub", local_files_only=True)
    assert str(hub.dataset_snapshot("owner/set", COMMIT)) == theirs


def test_a_branch_is_resolved_and_its_commit_told(project, served):
    found, _ = go(project, "subject.revision=main")
    assert served.asked[:2] == ["main", COMMIT]
    assert any(f"`revision: {COMMIT}` in the recipe pins it" in note.text for note in found.notes)
    served.commit = LATER
    assert go(project, "subject.revision=main")[0].sources == found.sources, "what it stood for when it was fetched"


@pytest.mark.parametrize(("names", "words"), [
    (("data/train-00000.parquet", "README.md"), r"holds no picture files: found \.md, \.parquet"),
    ((), "found nothing")])
def test_a_set_without_picture_files_is_refused(project, served, names, words):
    served.names = names
    with pytest.raises(RecipeError, match=words):
        go(project)


def test_of_splits_the_one_to_train_on_is_wanted():
    assert select_dataset_files(["a.png", "a.txt", "b/c.jpg", "x.bin", "metadata.csv"]) == (
        "a.png", "a.txt", "b/c.jpg", "metadata.csv")
    assert select_dataset_files(["train/a.png", "test/b.png"]) == ("train/a.png",)
    assert select_dataset_files(["cats/a.png", "dogs/b.png"]) == ("cats/a.png", "dogs/b.png")


def test_a_hub_id_and_its_revision_go_together(project):
    with pytest.raises(InvalidRecipe, match=r"not a data set of the Hub"):
        go(project, "subject.images=pictures")
    with pytest.raises(RecipeError, match=r"for a data set of the Hub, also write its `revision`"):
        go(project, "subject.revision=null")
