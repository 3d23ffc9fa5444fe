"""Does the local server show the runs of a store, read-only, and to this machine alone?"""

import asyncio
from pathlib import Path
from typing import Any

import pytest
from recorded_runs import record_run

from dbrun.errors import UsageError
from dbrun.store.store import Store

pytest.importorskip("starlette")

from dbrun.ui.report.serve import make_app, open_socket


def ask(app: Any, path: str, query: str = "", method: str = "GET",
        host: str = "127.0.0.1:8765") -> tuple[int, str, Any]:
    """Status, body and headers of one request."""
    sent: list[dict[str, Any]] = []
    scope = {"type": "http", "method": method, "path": path, "raw_path": path.encode(), "query_string": query.encode(),
             "headers": [(b"host", host.encode())], "http_version": "1.1", "scheme": "http", "server": None,
             "client": None, "root_path": ""}

    async def receive() -> dict[str, Any]:
        return {"type": "http.request", "body": b"", "more_body": False}

    async def send(message: dict[str, Any]) -> None:
        sent.append(message)

    asyncio.run(app(scope, receive, send))
    body = b"".join(message.get("body", b"") for message in sent).decode()
    return sent[0]["status"], body, {name.decode(): value.decode() for name, value in sent[0]["headers"]}


def test_the_server_shows_and_changes_nothing(tmp_path: Path) -> None:
    store = Store(tmp_path / "store")
    store.prepare()
    runs = [record_run(store, number=i) for i in range(2)]
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "store" / "runs").rglob("*")}
    app = make_app(store)
    status, body, headers = ask(app, "/")
    assert status == 200 and all(f'href="/run/{run.id}"' in body for run in runs)
    assert "default-src 'none'" in headers["content-security-policy"] and headers["cache-control"] == "no-store"
    status, body, _ = ask(app, f"/run/{runs[0].id}")
    assert status == 200 and 'id="losses"' in body and 'href="/"' in body
    status, body, _ = ask(app, "/compare", f"run={runs[0].id}&run={runs[1].id}")
    assert status == 200 and "2 runs side by side" in body
    for path in ("/run/20261130-065700.000000-cat", "/run/..", "/run/../../etc", "/compare", "/store"):
        assert ask(app, path)[0] == 404, path
    assert ask(app, "/", method="POST")[0] == 405
    assert ask(app, "/", host="evil.example:8765")[0] == 400
    assert {path: path.stat().st_mtime_ns for path in (tmp_path / "store" / "runs").rglob("*")} == before


def test_a_taken_port_is_said() -> None:
    """The usual port may be taken: then any other will do; a port that was asked for will not."""
    first = open_socket(None)
    with first, pytest.raises(UsageError, match="cannot be used"):
        open_socket(first.getsockname()[1])
    with open_socket(None) as second:
        assert second.getsockname()[0] == "127.0.0.1"
