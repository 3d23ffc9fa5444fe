"""A server of this machine that answers as the Hub does, and `RepoHub`, which has one repository to fetch from."""

import hashlib
import json
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import SimpleNamespace
from urllib.parse import urlsplit

import pytest

COMMIT = "c" * 40
PIECE = 1 << 14
"""Bytes that are sent at once."""


class Server(ThreadingHTTPServer):
    daemon_threads = True

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"


class Speaker(BaseHTTPRequestHandler):
    def log_message(self, *args) -> None:
        pass

    def answer(self, data: object, status: int = 200) -> None:
        body = json.dumps(data).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)


@contextmanager
def serving(server: Server) -> Iterator[Server]:
    """Let it answer inside the block."""
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield server
    server.shutdown()
    server.server_close()


def ask_here(hub: Server, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the Hub's library of this process ask this server, and keep what it fetches in the folder `cache`."""
    from huggingface_hub import constants, file_download
    from huggingface_hub.utils import close_session

    for name, value in {"ENDPOINT": hub.url, "HF_HUB_CACHE": str(cache), "HF_HUB_OFFLINE": False,
                        "HUGGINGFACE_CO_URL_TEMPLATE": hub.url + "/{repo_id}/resolve/{revision}/{filename}",
                        "HF_HUB_DISABLE_XET": True, "DOWNLOAD_CHUNK_SIZE": PIECE}.items():
        monkeypatch.setattr(constants, name, value)
    for name, value in {"HF_HUB_CACHE": str(cache), "HF_HUB_OFFLINE": "0", "no_proxy": "127.0.0.1"}.items():
        monkeypatch.setenv(name, value)
    monkeypatch.delenv("TRANSFORMERS_OFFLINE", raising=False)
    # it waits a second before each new attempt
    monkeypatch.setattr(file_download, "time", SimpleNamespace(sleep=lambda seconds: None))
    close_session()


@dataclass
class Sent:
    """Answer to one request for a file. start: the first byte that was asked for; count: the bytes that were sent."""

    name: str
    start: int
    count: int = 0


class RepoHub(Server):
    """Serves one folder as the repository `owner/name`; files with LARGE endings are large ones.

    sent: the files that it was asked for. Faults, each by a file's name: cut: so many bytes are sent, then the
    connection drops; slow: seconds between two pieces; wrong: its bytes are sent with the last one changed.
    gated: false, or how access is given (`manual`); then files are refused. token: the only one that is valid, None
    for all.
    """

    LARGE = (".safetensors", ".bin")

    def __init__(self, folder: Path) -> None:
        super().__init__(("127.0.0.1", 0), Downloads)
        self.folder, self.sent = folder, list[Sent]()
        self.cut, self.slow, self.wrong = dict[str, int](), dict[str, float](), set[str]()
        self.gated: bool | str = False
        self.token: str | None = None

    @property
    def names(self) -> list[str]:
        """The files that it was asked for."""
        return [sent.name for sent in self.sent]


class Downloads(Speaker):
    """The part of the Hub's interface that a download uses."""

    server: RepoHub

    def do_HEAD(self) -> None:
        self.do_GET()

    def do_GET(self) -> None:
        hub, place = self.server, urlsplit(self.path).path
        token = self.headers.get("Authorization")
        if hub.token is not None and token not in (None, f"Bearer {hub.token}"):
            self.refuse(401, message="Invalid credentials in Authorization header")
        elif not place.removeprefix("/api/models").startswith("/owner/name"):
            self.refuse(401, "RepoNotFound")
        elif place.startswith(files := f"/owner/name/resolve/{COMMIT}/"):
            self.send_file(place.removeprefix(files))
        elif place == f"/api/models/owner/name/tree/{COMMIT}":
            self.answer([self.entry(name) for name in self.files()])
        elif place in ("/api/models/owner/name", *(f"/api/models/owner/name/revision/{r}" for r in ("main", COMMIT))):
            self.answer({"id": "owner/name", "sha": COMMIT, "tags": [], "gated": hub.gated,
                         "siblings": [self.sibling(name) for name in self.files()]})
        elif place == "/api/models/owner/name/auth-check":
            self.refuse(403, "GatedRepo")
        else:
            self.refuse(404, "RevisionNotFound" if "/revision/" in place or "/tree/" in place else "EntryNotFound")

    def files(self) -> list[str]:
        found = [path for path in sorted(self.server.folder.rglob("*")) if path.is_file()]
        return [path.relative_to(self.server.folder).as_posix() for path in found]

    def entry(self, name: str) -> dict:
        data = (self.server.folder / name).read_bytes()
        found = {"type": "file", "path": name, "size": len(data), "oid": hashlib.sha1(data).hexdigest()}
        if name.endswith(self.server.LARGE):
            found["lfs"] = {"oid": hashlib.sha256(data).hexdigest(), "size": len(data), "pointerSize": 130}
        return found

    def sibling(self, name: str) -> dict:
        """The same in the words of `model_info`, which has no sizes unless it is asked for them."""
        entry = self.entry(name)
        if "blobs=" not in self.path.lower():
            return {"rfilename": name}
        found = {"rfilename": name, "size": entry["size"], "blobId": entry["oid"]}
        if "lfs" in entry:
            found["lfs"] = {"sha256": entry["lfs"]["oid"], "size": entry["size"], "pointerSize": 130}
        return found

    def refuse(self, status: int, code: str = "", message: str = "") -> None:
        self.send_response(status)
        self.send_header("X-Error-Code", code)
        self.send_header("X-Error-Message", message)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def send_file(self, name: str) -> None:
        hub, entry = self.server, self.entry(name)
        if hub.gated:
            self.refuse(403, "GatedRepo")
            return
        data = (hub.folder / name).read_bytes()
        if name in hub.wrong:
            data = data[:-1] + bytes([data[-1] ^ 1])
        start = int(self.headers.get("Range", "bytes=0-").removeprefix("bytes=").rstrip("-"))
        if start and start >= len(data):
            self.refuse(416)
            return
        self.send_response(206 if start else 200)
        self.send_header("X-Repo-Commit", COMMIT)
        self.send_header("ETag", f'"{entry["lfs"]["oid"] if "lfs" in entry else entry["oid"]}"')
        if start:
            self.send_header("Content-Range", f"bytes {start}-{len(data) - 1}/{len(data)}")
        self.send_header("Content-Length", str(len(data) - start))
        self.end_headers()
        if self.command == "GET":
            hub.sent.append(sent := Sent(name, start))
            self.send_pieces(data, sent)

    def send_pieces(self, data: bytes, sent: Sent) -> None:
        end = self.server.cut.get(sent.name, len(data))
        self.close_connection = True
        for place in range(sent.start, end, PIECE):
            piece = data[place:min(place + PIECE, end)]
            # counted before: the other side may have the last piece, and ask for the count, before this thread goes on
            sent.count += len(piece)
            try:
                self.wfile.write(piece)
            except OSError:
                # the other side is gone
                sent.count -= len(piece)
                return
            time.sleep(self.server.slow.get(sent.name, 0))
