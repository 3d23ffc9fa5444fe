"""How an adapter's provenance looks: nested facts as indented lines."""

from __future__ import annotations

import re
import sys
from collections.abc import Mapping

from dbrun.ui.terminal import paint

DIGEST = re.compile(r"\b([0-9a-f]{12})[0-9a-f]{52}\b")


def outline(facts: Mapping[str, object], indent: str = "") -> str:
    """`key: value` lines; what has several lines or parts one step further in, long digests shortened."""
    lines = []
    for key, value in facts.items():
        label = f"{indent}{paint(key, 'cyan', sys.stdout)}:"
        if isinstance(value, Mapping):
            lines += [label, outline(value, indent + "  ")]
        elif isinstance(value, (list, tuple)) and value and all(isinstance(v, Mapping) for v in value):
            lines.append(label)
            for entry in value:
                body = outline(entry, indent + "    ")
                lines.append(f"{indent}  - {body.lstrip()}")
        elif isinstance(value, str) and "\n" in value:
            lines += [label, *(f"{indent}  | {line}" for line in value.splitlines())]
        elif isinstance(value, (list, tuple)):
            lines.append(f"{label} {', '.join(map(_word, value)) or '-'}")
        else:
            lines.append(f"{label} {_word(value)}")
    return "\n".join(lines)


def _word(value: object) -> str:
    text = "-" if value is None else str(value)
    return DIGEST.sub(r"\1", text)
