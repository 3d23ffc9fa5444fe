"""Golden texts: what is said to people, compared whole with a file beside the test.

A test calls `golden(label, text)`; the texts of `test_x.py` are in `golden/test_x.txt`, each below a line
`=== test: label`. `python tests/house/regenerate.py --words` writes these files again; the diff shows what changed.
"""

from __future__ import annotations

import re
from pathlib import Path

HEAD = re.compile(r"^=== (.*)\n", re.M)


def golden_file(test_file: Path) -> Path:
    return test_file.parent / "golden" / f"{test_file.stem}.txt"


def read_sections(path: Path) -> dict[str, str]:
    """Head of a section → its text; empty if there is no such file."""
    if not path.exists():
        return {}
    _, *parts = HEAD.split(path.read_text(encoding="utf-8"))
    return dict(zip(parts[::2], parts[1::2], strict=True))


class Golden:
    """The golden texts of one test. folder: its temporary folder, shown as FOLDER."""

    def __init__(self, test_file: Path, test: str, folder: Path, rewrite: bool) -> None:
        self.path, self.test, self.folder, self.rewrite = golden_file(test_file), test, folder, rewrite

    def __call__(self, label: str, text: str) -> None:
        head = f"{self.test}: {label}"
        assert "\n" not in head
        shown = text.replace(str(self.folder), "FOLDER").rstrip("\n") + "\n"
        sections = read_sections(self.path)
        if self.rewrite:
            sections[head] = shown
            self.path.parent.mkdir(exist_ok=True)
            self.path.write_text("".join(f"=== {name}\n{said}" for name, said in sections.items()), encoding="utf-8")
        else:
            # "" for a new text: it is never equal, since what is shown ends with a newline
            assert shown == sections.get(head, ""), f"{head}; if it is meant: python tests/house/regenerate.py --words"
