"""The Hub's cache is found where its library puts it, and no name of a recipe leads elsewhere."""

import subprocess
import sys

import pytest
from fake_base import fake_cache

from dbrun.resolve import hub

COMMIT = "c" * 40
PLACES = ("HF_HUB_CACHE", "HUGGINGFACE_HUB_CACHE", "HF_HOME", "XDG_CACHE_HOME")


@pytest.fixture
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path / "hub"))
    return tmp_path / "hub"


@pytest.mark.parametrize("settings", [
    {}, {"HF_HOME": "/a/b"}, {"HF_HUB_CACHE": "/a/c"}, {"HUGGINGFACE_HUB_CACHE": "/a/d"}, {"XDG_CACHE_HOME": "/a/e"},
    {"HF_HOME": "~/f"}, {"HF_HOME": "/a/b", "HF_HUB_CACHE": "$HOME/g", "XDG_CACHE_HOME": "/a/e"}])
def test_the_cache_is_where_the_library_says(settings, monkeypatch):
    for name in PLACES:
        monkeypatch.delenv(name, raising=False)
    for name, value in settings.items():
        monkeypatch.setenv(name, value)
    code = "import os; from huggingface_hub.constants import HF_HUB_CACHE; print(os.path.expanduser(HF_HUB_CACHE))"
    said = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.strip()
    assert str(hub.cache_folder()) == said


def test_refs_and_snapshots_are_read(cache):
    assert hub.cached_commit("owner/name", "main") is None
    assert hub.model_snapshot("owner/name", COMMIT) is None
    folder = fake_cache(cache, COMMIT, {"main": COMMIT, "refs/pr/1": COMMIT, "odd": "not a commit"})
    assert hub.cached_commit("owner/name", "main") == COMMIT
    assert hub.cached_commit("owner/name", "refs/pr/1") == COMMIT
    assert hub.cached_commit("owner/name", "odd") is None
    assert hub.model_snapshot("owner/name", COMMIT) == folder
    (folder / "model_index.json").unlink()
    assert hub.model_snapshot("owner/name", COMMIT) is None


@pytest.mark.parametrize("revision", ["../secret", "a/../../b", "/etc/passwd", "", "..", "a//b", ".hidden"])
def test_a_revision_never_leads_out_of_the_cache(cache, revision):
    fake_cache(cache, COMMIT, {"main": COMMIT})
    for place in (cache / "models--owner--name" / "secret", cache / "b"):
        place.write_text(COMMIT)
    assert hub.cached_commit("owner/name", revision) is None


@pytest.mark.parametrize(("value", "meant"), [("1", True), ("on", True), ("TRUE", True), ("0", False), ("", False)])
def test_offline_is_read_as_the_library_reads_it(monkeypatch, value, meant):
    monkeypatch.delenv("TRANSFORMERS_OFFLINE", raising=False)
    monkeypatch.setenv("HF_HUB_OFFLINE", value)
    assert hub.is_offline() is meant
