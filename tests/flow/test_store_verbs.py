"""Do the verbs over the store tell the truth about a real one, and mend it?"""

import json
import os
import random
import shutil
import subprocess

import pytest
from projects import Project, cpu_and_heavy


def asked(project: Project, *words: str, check: int = 0) -> dict[str, object]:
    answer: dict[str, object] = json.loads(project.dbrun(*words, "--json", check=check).stdout)
    assert answer["format_version"] == 1
    return answer


def test_ls_and_du_say_what_is_there_and_load_nothing_heavy(project: Project) -> None:
    (run,) = asked(project, "ls")["runs"]
    assert run["name"] == "tiny" and run["state"] == "done" and not run["pinned"] and run["bytes"] > 100_000
    assert run["id"] in project.dbrun("ls").stdout
    room = asked(project, "du")
    assert {"load", "train", "items of preprocess", "checkpoints and unfinished work"} <= set(room["parts"])
    on_disk = subprocess.run(["du", "-s", "-B1", project.folder / ".dbrun"], capture_output=True, text=True, check=True)
    assert sum(part["bytes"] for part in room["parts"].values()) == int(on_disk.stdout.split()[0])
    for words in (("ls",), ("verify",)):
        assert cpu_and_heavy(project.folder, *words)[1] == [], words


def test_a_store_that_is_not_there_is_empty(fresh: Project) -> None:
    assert asked(fresh, "ls")["runs"] == [] and asked(fresh, "du")["parts"] == {}
    assert "no runs" in fresh.dbrun("ls").stderr
    assert "nothing" in fresh.dbrun("verify").stdout
    fresh.dbrun("gc")
    assert not (fresh.folder / ".dbrun").exists()


def flipped_checkpoint(project: Project) -> None:
    """Change a bit in the newest checkpoint."""
    path = sorted((project.folder / ".dbrun").glob("work/*/checkpoints/step-00000006.*"))[0]
    content = bytearray(path.read_bytes())
    content[random.Random(0).randrange(len(content))] ^= 4
    path.write_bytes(content)


def test_verify_puts_a_flipped_checkpoint_aside(project: Project) -> None:
    assert asked(project, "verify")["findings"] == []
    flipped_checkpoint(project)
    (found,) = asked(project, "verify", check=5)["findings"]
    assert found["kind"] == "checkpoint" and (project.folder / ".dbrun" / found["aside"]).is_file()
    assert "all as written" in project.dbrun("verify").stdout


@pytest.mark.slow
@pytest.mark.parametrize("verified", [True, False])
def test_where_the_newest_checkpoint_is_flipped_an_older_one_serves(project: Project, fresh: Project,
                                                                    verified: bool) -> None:
    flipped_checkpoint(project)
    project.dbrun("verify", check=5 if verified else None)
    assert "going on after step 4 of 8" in project.dbrun("run", "tiny.yaml", "train.steps=8").stderr
    fresh.dbrun("run", "tiny.yaml", "train.steps=8")
    assert project.exported() == fresh.exported()


def test_gc_keeps_what_is_pinned(project: Project) -> None:
    (run,) = asked(project, "ls")["runs"]
    assert project.dbrun("pin", "tiny").stdout.strip() == run["id"]
    project.dbrun("gc", "--keep", "0")
    assert asked(project, "ls")["runs"][0]["pinned"]
    assert "nothing to do" in project.dbrun("run", "tiny.yaml").stderr
    project.dbrun("unpin", run["id"])
    would = asked(project, "gc", "--keep", "0", "--dry-run")
    assert asked(project, "gc", "--keep", "0") == would and would["bytes"] > 100_000
    assert list((project.folder / ".dbrun" / "objects").iterdir()) == []
    assert project.dbrun("pin", "tiny", check=2).stderr.startswith("error: there is no run 'tiny'")


def test_a_store_that_can_only_be_read_is_looked_at_and_refuses_a_gc(project: Project) -> None:
    store = project.folder / ".dbrun"
    if os.geteuid() or subprocess.run(["mount", "--bind", "-o", "ro", store, store], capture_output=True).returncode:
        pytest.skip("this process may not mount")
    try:
        shutil.rmtree(project.folder / "outputs")
        assert "nothing to do" in project.dbrun("run", "tiny.yaml").stderr
        assert {s["status"] for s in asked(project, "plan", "tiny.yaml")["stages"]} == {"hit"}
        for verb in ("ls", "du", "verify"):
            asked(project, verb)
        for words in (("gc",), ("pin", "tiny"), ("run", "tiny.yaml", "train.steps=8")):
            said = project.dbrun(*words, check=1).stderr
            assert "is read-only" in said and "DBRUN_STORE" in said
    finally:
        subprocess.run(["umount", store], check=True)
