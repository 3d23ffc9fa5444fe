"""A base that lies on a Hub: fetched by the real library from a server of this machine, whole or not at all."""

import json
import os
import subprocess
import sys

import pytest
from local_hub import RepoHub, serving
from projects import SECRET, Project

FULL = """\
import os, sys
there, full = os.statvfs, os.statvfs_result((4096, 4096, 9, 0, 0, 0, 0, 0, 0, 255))
os.statvfs = lambda path: full if "hf" in str(path) else there(path)
from dbrun.cli import main
sys.argv = ["dbrun", *sys.argv[1:]]
main()
"""
"""dbrun where the disk of the Hub's cache has nine blocks of 4 KiB, none of them free."""


@pytest.fixture
def hub(finished):
    with serving(RepoHub(finished.folder / "base")) as served:
        yield served


@pytest.fixture
def asking(fresh, hub):
    """A recipe that names the served base, and what the environment says of it."""
    recipe = fresh.folder / "tiny.yaml"
    recipe.write_text(recipe.read_text().replace("path: base", "path: owner/name, revision: main"))
    (fresh.folder / "hf").mkdir()
    return {"HF_ENDPOINT": hub.url, "HF_HUB_OFFLINE": "0", "HF_HOME": str(fresh.folder / "hf"), "HF_TOKEN": SECRET,
            "HF_HUB_DISABLE_XET": "1", "HF_HUB_ETAG_TIMEOUT": "5", "no_proxy": "127.0.0.1"}


@pytest.mark.slow
def test_it_is_fetched_once_and_gives_what_the_same_base_in_a_folder_gives(finished: Project, fresh: Project, hub,
                                                                          asking) -> None:
    fresh.dbrun("run", "tiny.yaml", "--until", "adapt", env=asking)
    events = next(fresh.folder.glob(".dbrun/runs/*/events.jsonl")).read_text()
    assert "the download of owner/name takes" in events and "are free in" in events
    names = [p.relative_to(hub.folder).as_posix() for p in hub.folder.rglob("*") if p.is_file()]
    assert sorted(hub.names) == sorted(names)
    assert digests(fresh, env={**asking, "HF_HUB_OFFLINE": "1"}) == digests(finished)
    assert len(hub.names) == len(names)


def digests(project: Project, **options) -> list[str]:
    """What the stages `load` and `adapt` gave."""
    stages = json.loads(project.dbrun("plan", "tiny.yaml", "--json", **options).stdout)["stages"]
    found = {stage["name"]: stage["digest"] for stage in stages}
    assert found["load"] and found["adapt"]
    return [found["load"], found["adapt"]]


def test_a_download_that_the_disk_cannot_take_is_refused_before_its_first_byte(fresh: Project, hub, asking) -> None:
    done = subprocess.run([sys.executable, "-c", FULL, "run", "tiny.yaml"], cwd=fresh.folder, text=True,
                          capture_output=True, env={**os.environ, **asking})
    assert done.returncode == 1 and hub.sent == [], done.stdout + done.stderr
    assert "the download of owner/name needs up to" in " ".join(done.stderr.split())


def test_a_plan_tells_of_a_gated_base_and_what_to_do(fresh: Project, hub, asking) -> None:
    hub.gated = "manual"
    stages = json.loads(fresh.dbrun("plan", "tiny.yaml", "--json", env=asking).stdout)["stages"]
    assert {stage["status"] for stage in stages} == {"blocked"} and hub.sent == []
    assert "owner/name is gated" in stages[0]["reason"] and "https://huggingface.co/owner/name" in stages[0]["reason"]
