"""Pages as text: templates filled in, every word of a user escaped, secrets hidden, style and script inside."""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from dbrun.disk_space import format_bytes
from dbrun.run.redact import redact_message
from dbrun.secrets import redact_secrets
from dbrun.ui.terminal import format_duration

TEMPLATES = Path(__file__).parent / "templates"
MARK = "<!-- made by dbrun report -->"
"""A line of every page, by which a command knows a file that it may write again."""


def render_page(template: str, **values: object) -> str:
    """The text of a page. template: name of a file in `templates/`; equal values give equal text."""
    return _environment().get_template(template).render(**values)


@cache
def page_policy() -> str:
    """The Content-Security-Policy of every page: its own script and style, pictures inside the page, nothing else.

    Even a word that was not escaped could then run nothing and ask for nothing.
    """
    # `self` for the form of the page of all runs; of a page in a file, there is no such address
    digest = hashlib.sha256(_read("report.js").encode()).digest()
    script = base64.b64encode(digest).decode()
    return (f"default-src 'none'; img-src data:; style-src 'unsafe-inline'; script-src 'sha256-{script}'; "
            "base-uri 'none'; form-action 'self'")


@cache
def _environment() -> Environment:
    environment = Environment(loader=FileSystemLoader(TEMPLATES), autoescape=True, undefined=StrictUndefined,
                              finalize=_redact, trim_blocks=True, lstrip_blocks=True)
    environment.globals.update(style=Markup(_read("report.css")), script=Markup(_read("report.js")),
                               policy=page_policy(), mark=Markup(MARK))
    environment.filters.update(duration=format_duration, bytes=format_bytes, data=json_data, message=redact_message,
                               spans=code_spans)
    return environment


def _read(name: str) -> str:
    return (TEMPLATES / name).read_text(encoding="utf-8")


def code_spans(text: str) -> list[tuple[bool, str]]:
    """The text in pieces, each with whether it stands between backticks; an odd backtick is a letter like any other."""
    pieces = text.split("`")
    if len(pieces) % 2 == 0:
        return [(False, text)]
    return [(bool(number % 2), piece) for number, piece in enumerate(pieces) if piece]


def _redact(value: object) -> object:
    """A value of a template without secrets. Pictures, style and script hold none."""
    if isinstance(value, Markup) or not isinstance(value, str) or value.startswith("data:image/jpeg;base64,"):
        return value
    return redact_secrets(value)


def json_data(value: object) -> Markup:
    """JSON for a `<script type="application/json">`: no text in it can end the script or begin a comment."""
    text = json.dumps(_without_secrets(value), ensure_ascii=True, separators=(",", ":"))
    return Markup(text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026"))


def _without_secrets(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {key: _without_secrets(inner) for key, inner in value.items()}
    if isinstance(value, (list, tuple)):
        return [_without_secrets(inner) for inner in value]
    return _redact(value)
