"""The local server of reports: all runs of a store, read-only, on this machine alone."""

from __future__ import annotations

import socket
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import dbrun
from dbrun.errors import UsageError
from dbrun.images.thumbnails import THUMBNAIL_SIDE
from dbrun.options.packages import OptionalPackage
from dbrun.store.runs import RUN_ID, Run, list_runs, read_run
from dbrun.store.store import Store
from dbrun.ui.report.compare_page import MAX_RUNS, render_comparison
from dbrun.ui.report.page import page_policy, render_page
from dbrun.ui.report.record import RunReader
from dbrun.ui.report.run_page import STATES, render_run

if TYPE_CHECKING:
    from starlette.applications import Starlette
    from starlette.requests import Request
    from starlette.responses import Response

PACKAGES = (OptionalPackage("starlette", "starlette", "serve"), OptionalPackage("uvicorn", "uvicorn", "serve"))
HOST, PORT = "127.0.0.1", 8765
MAX_CARDS = 60
"""Newest runs on the page of all runs."""
LIVE_SECONDS, INDEX_SECONDS = 5, 10
"""Seconds after which the page of a running run, and the page of all runs while one is running, reads itself again."""


@dataclass(frozen=True)
class Card:
    """A run on the page of all runs. url: of one of its pictures, None without any; loss: the last one as text."""

    id: str
    name: str
    state: str
    started: str
    steps: int
    loss: str
    url: str | None


@dataclass
class Pages:
    """Draws the pages of a store. cards: those of runs that have ended, which change no more."""

    store: Store
    reader: RunReader
    cards: dict[str, Card] = field(default_factory=dict)
    lock: threading.Lock = field(default_factory=threading.Lock)

    def index(self) -> str:
        """The page of all runs."""
        runs = list_runs(self.store)
        cards = [self._card(run) for run in runs[:MAX_CARDS]]
        is_running = any(run.is_live for run in runs)
        return render_page("index.html.j2", cards=cards, shown=len(cards), count=len(runs), states=STATES,
                           live=INDEX_SECONDS if is_running else 0, version=dbrun.__version__)

    def run(self, run_id: str) -> str | None:
        """The page of a run; None if there is none of this id."""
        run = self._find(run_id)
        if run is None:
            return None
        return render_run(self.reader, run, live=LIVE_SECONDS, written=_last_change(run), home="/")

    def comparison(self, run_ids: list[str]) -> str | None:
        """The page of several runs; None if there is none of one of these ids, or if they are too many."""
        runs = [run for run in map(self._find, dict.fromkeys(run_ids)) if run is not None]
        if not runs or len(runs) < len(set(run_ids)) or len(runs) > MAX_RUNS:
            return None
        return render_comparison(self.store, runs, live=LIVE_SECONDS, home="/")

    def _find(self, run_id: str) -> Run | None:
        # the pattern holds no slash: no address leads out of the folder of runs
        folder = self.store.runs / run_id
        if "/" in run_id or not RUN_ID.fullmatch(run_id) or not folder.is_dir():
            return None
        return read_run(folder)

    def _card(self, run: Run) -> Card:
        if run.id in self.cards:
            return self.cards[run.id]
        report = RunReader(self.store, THUMBNAIL_SIDE).read(run, brief=True)
        losses = next(iter(report.losses.values()), ())
        url = report.comparison.pairs[0][3] if report.comparison else None
        card = Card(run.id, run.name, report.state, report.started, report.steps_done,
                    f"{losses[-1][1]:.4g}" if losses else "", url)
        if not run.is_live:
            self.cards[run.id] = card
        return card


def _last_change(run: Run) -> int:
    """When a run last wrote an event, in seconds since 1970; 0 if it wrote none."""
    try:
        return round((run.folder / "events.jsonl").stat().st_mtime)
    except OSError:
        return 0


def make_app(store: Store) -> Starlette:
    """The ASGI app. It answers GET only, writes nothing, and refuses requests that name another host."""
    from starlette.applications import Starlette
    from starlette.middleware import Middleware
    from starlette.middleware.trustedhost import TrustedHostMiddleware
    from starlette.responses import HTMLResponse
    from starlette.routing import Route

    pages = Pages(store, RunReader(store))
    headers = {"Content-Security-Policy": f"{page_policy()}; frame-ancestors 'none'", "Cache-Control": "no-store",
               "X-Content-Type-Options": "nosniff", "Referrer-Policy": "no-referrer"}

    def answer(draw: Callable[[], str | None]) -> Response:
        # one page at a time: the readers keep what they have read
        with pages.lock:
            text = draw()
        if text is None:
            return HTMLResponse("there is no such run", 404, headers)
        return HTMLResponse(text, headers=headers)

    # plain functions: starlette calls them in a thread, so that one slow page blocks no other request
    def index(request: Request) -> Response:
        return answer(pages.index)

    def run(request: Request) -> Response:
        return answer(lambda: pages.run(request.path_params["run_id"]))

    def comparison(request: Request) -> Response:
        return answer(lambda: pages.comparison(request.query_params.getlist("run")))

    routes = [Route("/", index), Route("/run/{run_id}", run), Route("/compare", comparison)]
    # a page of another site can have its name point here (DNS rebinding); it then asks for that name
    trusted = Middleware(TrustedHostMiddleware, allowed_hosts=["localhost", "127.0.0.1", "[::1]"])
    return Starlette(routes=routes, middleware=[trusted])


def check_packages() -> None:
    """Raise UsageError where a package of the server is not installed."""
    for package in PACKAGES:
        if not package.is_installed:
            raise UsageError(f"the package {package.name} is not installed", fix=package.install_command)


def open_socket(port: int | None) -> socket.socket:
    """A socket on this machine's own address. port: None for the usual one, or any if that is taken.

    Raises UsageError for a port that is taken.
    """
    for candidate in (PORT, 0) if port is None else (port,):
        opened = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
        opened.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            opened.bind((HOST, candidate))
            # at once: who asks while the server starts then waits, and is not refused
            opened.listen()
        except OSError as error:
            opened.close()
            reason = error.strerror
            continue
        return opened
    raise UsageError(f"port {port} cannot be used: {reason}", fix="choose another one with --port, or leave it out")


def serve(store: Store, opened: socket.socket) -> None:
    """Answer requests until Ctrl-C."""
    import uvicorn

    config = uvicorn.Config(make_app(store), log_level="warning", lifespan="off", server_header=False)
    uvicorn.Server(config).run(sockets=[opened])
