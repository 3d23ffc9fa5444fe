"""Which picture has which prompts? index.json, which `preprocess` writes and `train` reads."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from dbrun.stages.sources import Picture

INDEX_FILE = "index.json"


@dataclass(frozen=True)
class PromptIndex:
    """prompts: each distinct one once; instance, classes: the number of each picture's prompt, in its half.

    variants: of each instance picture all the prompts that it may have; dropout: the share of its draws that have the
    empty one; both empty where no picture has any. shows: the instance picture that each row of the class half shows,
    where it shows instance pictures and not all of them in turn. repeats: how often an epoch shows each instance
    picture, empty where each is shown once.
    """

    prompts: tuple[str, ...]
    instance: tuple[int, ...]
    classes: tuple[int, ...]
    variants: tuple[tuple[int, ...], ...] = ()
    dropout: tuple[float, ...] = ()
    shows: tuple[int, ...] = ()
    repeats: tuple[int, ...] = ()

    @classmethod
    def build(cls, pictures: Sequence[Picture], classes: Sequence[str], shows: Sequence[int] = ()) -> PromptIndex:
        """The index of these instance pictures, and of a class half with these prompts."""
        varied = any(p.variants for p in pictures)
        dropped = any(p.dropout for p in pictures)
        empty = [""] if dropped else []
        prompts = sorted({*empty, *classes, *(text for p in pictures for text in (p.prompt, *p.variants))})
        where = {prompt: number for number, prompt in enumerate(prompts)}
        return cls(tuple(prompts), tuple(where[p.prompt] for p in pictures), tuple(where[text] for text in classes),
                   tuple(tuple(where[text] for text in (p.prompt, *p.variants)) for p in pictures) if varied else (),
                   tuple(p.dropout for p in pictures) if dropped else (), tuple(shows),
                   tuple(p.repeats for p in pictures) if any(p.repeats > 1 for p in pictures) else ())

    def write(self, folder: Path) -> None:
        """Write index.json; what is not used leaves no mark."""
        more = {name: value for name in ("variants", "dropout", "shows", "repeats") if (value := getattr(self, name))}
        text = json.dumps({"prompts": self.prompts, "instance": self.instance, "class": self.classes, **more},
                          indent=1, sort_keys=True)
        (folder / INDEX_FILE).write_text(text + "\n", encoding="utf-8")

    @classmethod
    def read(cls, folder: Path) -> PromptIndex:
        """What `write` wrote."""
        said = json.loads((folder / INDEX_FILE).read_text(encoding="utf-8"))
        return cls(tuple(said["prompts"]), tuple(said["instance"]), tuple(said["class"]),
                   tuple(map(tuple, said.get("variants", ()))), tuple(said.get("dropout", ())),
                   tuple(said.get("shows", ())), tuple(said.get("repeats", ())))

    def instance_picture(self, row: int) -> int:
        """The instance picture that a row of the class half shows, where it shows instance pictures."""
        return self.shows[row] if self.shows else row % len(self.instance)
