"""Does a delivered folder reach a Hub that speaks as huggingface_hub asks: private, resumable, without secrets?"""

import base64
import hashlib
import json
import os
import subprocess
import sys

import pytest
from local_hub import Server, Speaker, serving
from projects import SECRET

from dbrun.errors import UsageError
from dbrun.use.publish import prepare_upload


class Hub(Server):
    """repos: name -> visibility; files: of the last commit; large: blobs by sha256; fail: so many blobs are refused."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Uploads)
        self.repos, self.files, self.large, self.puts, self.fail, self.tokens = {}, {}, {}, [], 0, set()


class Uploads(Speaker):
    """The part of the Hub's interface that an upload of a folder uses."""

    server: Hub

    def body(self) -> bytes:
        if self.headers.get("Transfer-Encoding") == "chunked":
            parts = []
            while size := int(self.rfile.readline(), 16):
                parts.append(self.rfile.read(size))
                self.rfile.readline()
            self.rfile.readline()
            return b"".join(parts)
        return self.rfile.read(int(self.headers.get("Content-Length", 0)))

    def do_GET(self) -> None:
        self.answer({"id": "me/dog", "sha": "0" * 40, "siblings": [], "private": True, "tags": []})

    def do_PUT(self) -> None:
        content = self.body()
        sha256 = hashlib.sha256(content).hexdigest()
        self.server.puts.append(sha256)
        if self.server.fail:
            self.server.fail -= 1
            self.answer({"error": "broken"}, 403)
            return
        self.server.large[sha256] = content
        self.answer({})

    def do_POST(self) -> None:
        hub, data = self.server, self.body()
        hub.tokens.add(self.headers.get("Authorization"))
        if self.path == "/api/repos/create":
            asked = json.loads(data)
            known = asked["name"] in hub.repos
            hub.repos.setdefault(asked["name"], asked.get("visibility"))
            self.answer({"url": f"{hub.url}/me/dog"}, 409 if known else 200)
        elif self.path == "/api/validate-yaml":
            self.answer({"errors": [], "warnings": []})
        elif "/preupload/" in self.path:
            self.answer({"files": [{"path": f["path"], "shouldIgnore": False, "uploadMode":
                                    "lfs" if f["path"].endswith(".safetensors") else "regular"}
                                   for f in json.loads(data)["files"]]})
        elif self.path.endswith("/info/lfs/objects/batch"):
            upload = {"actions": {"upload": {"href": f"{hub.url}/blob", "header": {}}}}
            objects = [{"oid": o["oid"], "size": o["size"], **({} if o["oid"] in hub.large else upload)}
                       for o in json.loads(data)["objects"]]
            self.answer({"transfer": "basic", "objects": objects})
        else:
            assert "/commit/" in self.path, self.path
            hub.files = dict(committed(data, hub))
            self.answer({"commitUrl": f"{hub.url}/me/dog/commit/1", "commitOid": "1" * 40, "success": True})


def committed(data: bytes, hub: Hub):
    for line in data.splitlines():
        entry = json.loads(line)
        if entry["key"] == "file":
            yield entry["value"]["path"], base64.b64decode(entry["value"]["content"])
        elif entry["key"] == "lfsFile":
            yield entry["value"]["path"], hub.large[entry["value"]["oid"]]


@pytest.fixture
def hub():
    with serving(Hub()) as served:
        yield served


@pytest.fixture
def delivered(tmp_path):
    """What a run leaves: a card, weights, a picture, a record; and a file of the user's own beside them."""
    folder = tmp_path / "outputs" / "dog"
    files = {"README.md": b"---\nlibrary_name: diffusers\n---\n# dog\n", "before_after.png": b"\x89PNG",
             "kohya.safetensors": b"weights" * 500, "peft/denoiser/adapter_model.safetensors": b"more" * 900,
             "report.html": b"the pictures of the user"}
    for name, content in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(content)
    listed = {name: hashlib.sha256(content).hexdigest() for name, content in files.items()}
    (folder / "dbrun.json").write_text(json.dumps({"files": listed}))
    (folder / "notes.txt").write_text("mine")
    return folder


def push(folder, hub, *words: str, check: int = 0) -> subprocess.CompletedProcess[str]:
    env = {**os.environ, "HF_ENDPOINT": hub.url, "HF_HUB_OFFLINE": "0", "HF_TOKEN": SECRET, "HF_HUB_DISABLE_XET": "1",
           "HF_HOME": str(folder.parent / "hf"), "no_proxy": "127.0.0.1"}
    done = subprocess.run([sys.executable, "-m", "dbrun", "push", str(folder), "me/dog", *words], env=env, text=True,
                          capture_output=True, timeout=120)
    assert done.returncode == check, done.stdout + done.stderr
    return done


def test_what_was_delivered_arrives_in_a_private_repository_and_nothing_else(hub, delivered) -> None:
    done = push(delivered, hub)
    assert done.stdout.strip() == f"{hub.url}/me/dog" and hub.repos == {"dog": "private"}
    listed = json.loads((delivered / "dbrun.json").read_text())["files"]
    # the page about the run shows the training pictures
    names = [*listed.keys() - {"report.html"}, "dbrun.json"]
    assert "not sent: report.html" in done.stderr
    assert hub.files == {name: (delivered / name).read_bytes() for name in names}
    assert hub.tokens == {f"Bearer {SECRET}"}
    written = [p for p in delivered.parent.rglob("*") if p.is_file()]
    assert not [p for p in written if SECRET.encode() in p.read_bytes()] and SECRET not in done.stdout + done.stderr


def test_after_an_interruption_it_goes_on_and_sends_nothing_twice(hub, delivered) -> None:
    hub.fail = 1
    said = push(delivered, hub, check=1).stderr
    assert "could not be written" in said and "run the same command again" in said and not hub.files
    arrived = set(hub.large)
    before = len(hub.puts)
    push(delivered, hub)
    assert len(hub.files) == 5 and not arrived & set(hub.puts[before:])
    again = len(hub.puts)
    push(delivered, hub)
    assert len(hub.puts) == again, "what is there is not sent again"


def test_a_dry_run_sends_nothing_and_public_is_asked_for(hub, delivered) -> None:
    said = push(delivered, hub, "--dry-run").stderr
    assert "kohya.safetensors" in said and "5 files" in said and "private" in said and "notes.txt" not in said
    assert not hub.repos and not hub.tokens
    push(delivered, hub, "--public")
    assert hub.repos == {"dog": "public"}


def test_what_is_no_whole_delivery_is_refused(delivered, tmp_path) -> None:
    with pytest.raises(UsageError, match="written owner/name"):
        prepare_upload(delivered, "dog", private=True)
    with pytest.raises(UsageError, match="not the folder of a run"):
        prepare_upload(tmp_path, "me/dog", private=True)
    (delivered / "kohya.safetensors").write_bytes(b"other")
    with pytest.raises(UsageError, match="has changed since the run delivered it"):
        prepare_upload(delivered, "me/dog", private=True)
    (delivered / "kohya.safetensors").unlink()
    with pytest.raises(UsageError, match="missing"):
        prepare_upload(delivered, "me/dog", private=True)
