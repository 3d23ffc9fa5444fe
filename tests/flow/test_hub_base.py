"""A base that lies on a Hub: fetched by the real library from a server of this machine, whole or not at all."""

import hashlib
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from local_hub import Server, Speaker, serving
from projects import SECRET, Project

COMMIT = "c" * 40
FULL = """\
import os, sys
there, full = os.statvfs, os.statvfs_result((4096, 4096, 9, 0, 0, 0, 0, 0, 0, 255))
os.statvfs = lambda path: full if "hf" in str(path) else there(path)
from dbrun.cli import main
sys.argv = ["dbrun", *sys.argv[1:]]
main()
"""
"""dbrun where the disk of the Hub's cache has nine blocks of 4 KiB, none of them free."""


class Hub(Server):
    """Serves one folder as `owner/name`. sent: the files it was asked for; broken: a file that it cuts off.

    gated: false, or how access is given (`manual`); then the files are refused.
    """

    def __init__(self, folder: Path) -> None:
        super().__init__(("127.0.0.1", 0), Downloads)
        self.folder, self.sent, self.broken = folder, [], None
        self.gated = False


class Downloads(Speaker):
    """The part of the Hub's interface that a download uses."""

    server: Hub

    def do_HEAD(self) -> None:
        self.do_GET()

    def do_GET(self) -> None:
        place = self.path.partition("?")[0]
        if place == f"/api/models/owner/name/tree/{COMMIT}":
            self.answer([self.entry(path) for path in sorted(self.server.folder.rglob("*")) if path.is_file()])
        elif place in ("/api/models/owner/name", "/api/models/owner/name/revision/main"):
            self.answer({"id": "owner/name", "sha": COMMIT, "siblings": [], "tags": [], "gated": self.server.gated})
        elif place == "/api/models/owner/name/auth-check":
            self.refuse()
        elif place.startswith(files := f"/owner/name/resolve/{COMMIT}/"):
            self.send(place.removeprefix(files))
        else:
            self.send_error(404)

    def entry(self, path: Path) -> dict:
        data, name = path.read_bytes(), path.relative_to(self.server.folder).as_posix()
        large = {"oid": hashlib.sha256(data).hexdigest(), "size": len(data), "pointerSize": 130}
        return {"type": "file", "path": name, "size": len(data), "oid": hashlib.sha1(data).hexdigest(),
                **({"lfs": large} if name.endswith(".safetensors") else {})}

    def refuse(self) -> None:
        self.send_response(403)
        self.send_header("X-Error-Code", "GatedRepo")
        self.send_header("Content-Length", "0")
        self.end_headers()

    def send(self, name: str) -> None:
        data, entry = (self.server.folder / name).read_bytes(), self.entry(self.server.folder / name)
        self.send_response(200)
        self.send_header("X-Repo-Commit", COMMIT)
        self.send_header("ETag", f'"{entry["lfs"]["oid"] if "lfs" in entry else entry["oid"]}"')
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        if self.command == "GET":
            self.server.sent.append(name)
            self.wfile.write(data[:100] if name == self.server.broken else data)
            self.close_connection = True


@pytest.fixture
def hub(finished):
    with serving(Hub(finished.folder / "base")) as served:
        yield served


@pytest.fixture
def asking(fresh, hub):
    """A recipe that names the served base, and what the environment says of it."""
    recipe = fresh.folder / "tiny.yaml"
    recipe.write_text(recipe.read_text().replace("path: base", "path: owner/name, revision: main"))
    (fresh.folder / "hf").mkdir()
    return {"HF_ENDPOINT": hub.url, "HF_HUB_OFFLINE": "0", "HF_HOME": str(fresh.folder / "hf"), "HF_TOKEN": SECRET,
            "HF_HUB_DISABLE_XET": "1", "HF_HUB_ETAG_TIMEOUT": "5", "no_proxy": "127.0.0.1"}


def test_it_is_fetched_once_and_gives_what_the_same_base_in_a_folder_gives(finished: Project, fresh: Project, hub,
                                                                          asking) -> None:
    fresh.dbrun("run", "tiny.yaml", "--until", "adapt", env=asking)
    events = next(fresh.folder.glob(".dbrun/runs/*/events.jsonl")).read_text()
    assert "the download of owner/name takes" in events and "are free in" in events
    names = [p.relative_to(hub.folder).as_posix() for p in hub.folder.rglob("*") if p.is_file()]
    assert sorted(hub.sent) == sorted(names)
    assert digests(fresh, env={**asking, "HF_HUB_OFFLINE": "1"}) == digests(finished)
    assert len(hub.sent) == len(names)


def digests(project: Project, **options) -> list[str]:
    """What the stages `load` and `adapt` gave."""
    stages = json.loads(project.dbrun("plan", "tiny.yaml", "--json", **options).stdout)["stages"]
    found = {stage["name"]: stage["digest"] for stage in stages}
    assert found["load"] and found["adapt"]
    return [found["load"], found["adapt"]]


def test_a_download_that_is_cut_off_goes_on_with_the_files_that_it_lacks(fresh: Project, hub, asking) -> None:
    hub.broken = "unet/diffusion_pytorch_model.safetensors"
    said = fresh.dbrun("run", "tiny.yaml", "--until", "load", check=1, env=asking).stderr
    assert "owner/name could not be fetched from the Hub" in said and SECRET not in said
    hub.broken, before = None, set(hub.sent)
    hub.sent.clear()
    fresh.dbrun("run", "tiny.yaml", "--until", "load", env=asking)
    assert "unet/diffusion_pytorch_model.safetensors" in hub.sent
    assert not (before - {"unet/diffusion_pytorch_model.safetensors"}) & set(hub.sent)


def test_a_download_that_the_disk_cannot_take_is_refused_before_its_first_byte(fresh: Project, hub, asking) -> None:
    done = subprocess.run([sys.executable, "-c", FULL, "run", "tiny.yaml"], cwd=fresh.folder, text=True,
                          capture_output=True, env={**os.environ, **asking})
    assert done.returncode == 1 and hub.sent == [], done.stdout + done.stderr
    assert "the download of owner/name needs up to" in " ".join(done.stderr.split())
