"""A server between a client of S3 and its server that fails at random: it lies, loses bytes, waits and hangs up."""

from __future__ import annotations

import random
import threading
import time
from collections import Counter
from collections.abc import Sequence
from http.client import HTTPConnection
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from faulty_files import spoilt

STATUS = {"404": 404, "403": 403, "500": 500}
"""Fault → the answer that the client gets without a word of the real server."""
FAULTS = {
    "file": ("404", "slow", "hung up", "cut", "flipped bit", "longer", "garbage"),
    "trace": ("404", "500", "cut", "flipped bit", "garbage"),
    "listing": ("500", "cut", "stale"),
    "question": ("404", "403", "slow"),
    "write": ("403", "500", "slow", "hung up", "lost answer", "lost write"),
}
"""Request → its faults. A question is about a file that is not read; a write may also remove."""
EVERY = {f"{fault}: {request}" for request, faults in FAULTS.items() for fault in faults}


class FaultyServer(ThreadingHTTPServer):
    """A proxy of a server on 127.0.0.1. rate: the probability of a fault; counts: one of EVERY → how often."""

    daemon_threads = True

    def __init__(self, port: int, seed: int, slow_seconds: float) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.upstream = port
        self.slow_seconds = slow_seconds
        self.rate = 0.0
        self.counts: Counter[str] = Counter()
        self.listings: dict[str, bytes] = {}
        self._random = random.Random(seed)
        self._lock = threading.Lock()

    @property
    def port(self) -> int:
        """Where clients find it."""
        return int(self.server_address[1])

    def fault(self, request: str) -> str | None:
        """A fault of this kind of request, or None."""
        with self._lock:
            if self._random.random() >= self.rate:
                return None
            kind = self._random.choice(FAULTS[request])
            self.counts[f"{kind}: {request}"] += 1
            return kind

    def place(self, size: int) -> int:
        """A random place in so many bytes."""
        with self._lock:
            return self._random.randrange(size)

    def handle_error(self, request: object, client_address: object) -> None:
        """A client that has given up is none of the test's business."""


class _Handler(BaseHTTPRequestHandler):
    """One connection of a client."""

    protocol_version = "HTTP/1.1"
    server: FaultyServer

    def answer(self) -> None:
        """Answer a request, as the real server does or with a fault."""
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        kind = self.server.fault(self._request)
        if kind == "slow":
            time.sleep(self.server.slow_seconds)
        elif kind == "hung up":
            self.close_connection = True
            return
        elif kind in STATUS:
            self._send(STATUS[kind], [], b"")
            return
        elif kind == "lost write":
            self._send(200, [("ETag", '"0"')], b"")
            return
        status, headers, data = self._ask_upstream(body)
        if kind == "lost answer":
            self.close_connection = True
            return
        if self._request == "listing":
            before = self.server.listings.get(self.path, data)
            self.server.listings[self.path] = data
            data = before if kind == "stale" else data
        self._send(status, headers, data, kind)

    do_GET = do_HEAD = do_PUT = do_POST = do_DELETE = answer

    def log_message(self, format: str, *args: object) -> None:
        """Say nothing."""

    @property
    def _request(self) -> str:
        if self.command == "HEAD":
            return "question"
        if self.command != "GET":
            return "write"
        if "list-type=" in self.path:
            return "listing"
        return "trace" if "/traces/" in self.path else "file"

    def _ask_upstream(self, body: bytes) -> tuple[int, list[tuple[str, str]], bytes]:
        connection = HTTPConnection("127.0.0.1", self.server.upstream, timeout=60)
        try:
            # the same headers, the host too: they are signed
            connection.putrequest(self.command, self.path, skip_host=True, skip_accept_encoding=True)
            for name, value in self.headers.items():
                if name.lower() not in ("connection", "expect"):
                    connection.putheader(name, value)
            connection.endheaders(body)
            answer = connection.getresponse()
            return answer.status, answer.getheaders(), answer.read()
        finally:
            connection.close()

    def _send(self, status: int, headers: Sequence[tuple[str, str]], data: bytes, kind: str | None = None) -> None:
        size = next((value for name, value in headers if name.lower() == "content-length"), str(len(data)))
        if self.command != "HEAD":
            data = spoilt(data, kind, self.server.place)
            size = str(len(data))
        self.send_response(status)
        for name, value in headers:
            # without the checksums, by which some clients would notice the damage themselves
            if not name.lower().startswith(("content-length", "transfer-encoding", "connection", "x-amz-checksum")):
                self.send_header(name, value)
        self.send_header("Content-Length", size)
        self.end_headers()
        if kind == "cut" and data:
            data = data[:self.server.place(len(data))]
            self.close_connection = True
        if self.command != "HEAD":
            self.wfile.write(data)
