"""An adapter's provenance as indented lines."""

from __future__ import annotations

import re
import sys
from collections.abc import Mapping

from dbrun.ui.terminal import paint, terminal_width, wrap_text

DIGEST = re.compile(r"\b([0-9a-f]{12})[0-9a-f]{52}\b")
"""A sha256 in hex; the group is the part that is shown."""


def outline(facts: Mapping[str, object], indent: str = "") -> str:
    """`key: value` lines, nested values indented, digests shortened.

    The key `format_version` is for programs, and left out.
    """
    lines = []
    for key, value in facts.items():
        if key == "format_version":
            continue
        label = f"{indent}{paint(key, 'cyan', sys.stdout)}:"
        if isinstance(value, Mapping):
            lines += [label, outline(value, indent + "  ")]
        elif isinstance(value, (list, tuple)) and value and all(isinstance(v, Mapping) for v in value):
            # A list of mappings, written as in YAML: the first key beside the hyphen.
            lines.append(label)
            for entry in value:
                body = outline(entry, indent + "    ")
                lines.append(f"{indent}  - {body.lstrip()}")
        elif isinstance(value, str) and "\n" in value:
            lines.append(label)
            lines += [_fold_line(f"{indent}  | {line}", f"{indent}  |   ") for line in value.splitlines()]
        elif isinstance(value, (list, tuple)):
            listed = ", ".join(map(_value_text, value))
            lines.append(_fold_line(f"{label} {listed or '-'}", f"{indent}  "))
        else:
            lines.append(_fold_line(f"{label} {_value_text(value)}", f"{indent}  "))
    return "\n".join(lines)


def _fold_line(line: str, below: str) -> str:
    """A line wrapped to the terminal, unchanged if stdout is none. below: the beginning of the lines after the first.
    """
    # A file or pipe gets whole lines, which programs can search.
    if not sys.stdout.isatty():
        return line
    room = terminal_width(sys.stdout)
    return f"\n{below}".join(wrap_text(line, room, room - len(below)))


def _value_text(value: object) -> str:
    text = "-" if value is None else str(value)
    return DIGEST.sub(r"\1", text)
