"""index.json, which says what prompts each picture has: written by `preprocess`, joined to the crops by `train`."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from dbrun.errors import StageFailed
from dbrun.images.manifest import Half, Manifest, StoredPicture, crop_name, picture_id, picture_of
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
        texts = {text for picture in pictures for text in _all_prompts(picture)}
        texts.update(classes)
        # a list that says nothing of any picture stays empty, so that it leaves no mark in the file
        dropout: tuple[float, ...] = ()
        if any(picture.dropout for picture in pictures):
            texts.add("")
            dropout = tuple(picture.dropout for picture in pictures)
        repeats: tuple[int, ...] = ()
        if any(picture.repeats > 1 for picture in pictures):
            repeats = tuple(picture.repeats for picture in pictures)
        prompts = tuple(sorted(texts))
        numbers = {prompt: number for number, prompt in enumerate(prompts)}
        variants: tuple[tuple[int, ...], ...] = ()
        if any(picture.variants for picture in pictures):
            variants = tuple(_numbers_of(_all_prompts(picture), numbers) for picture in pictures)
        instance = _numbers_of([picture.prompt for picture in pictures], numbers)
        return cls(prompts, instance, _numbers_of(classes, numbers), variants, dropout, tuple(shows), repeats)

    def write(self, folder: Path) -> None:
        """Write index.json; what is not used leaves no mark."""
        content = {"prompts": self.prompts, "instance": self.instance, "class": self.classes}
        optional = {"variants": self.variants, "dropout": self.dropout, "shows": self.shows, "repeats": self.repeats}
        used = {name: values for name, values in optional.items() if values}
        text = json.dumps({**content, **used}, indent=1, sort_keys=True)
        (folder / INDEX_FILE).write_text(text + "\n", encoding="utf-8")

    @classmethod
    def read(cls, folder: Path) -> PromptIndex:
        """The index that `write` wrote."""
        said = json.loads((folder / INDEX_FILE).read_text(encoding="utf-8"))
        variants = tuple(tuple(numbers) for numbers in said.get("variants", ()))
        return cls(tuple(said["prompts"]), tuple(said["instance"]), tuple(said["class"]), variants,
                   tuple(said.get("dropout", ())), tuple(said.get("shows", ())), tuple(said.get("repeats", ())))

    def instance_picture(self, row: int) -> int:
        """The instance picture that a row of the class half shows, where it shows instance pictures."""
        return self.shows[row] if self.shows else row % len(self.instance)

    def manifest(self, crops: Iterable[str], *, shared: bool) -> Manifest:
        """The pictures of both halves with their crops. crops: the names of all latents that are stored.

        shared: whether the class half shows the instance pictures, and has none of its own. Raises StageFailed where
        index and crops do not agree.
        """
        self._check_lengths()
        stored = _crops_by_picture(crops)
        own_classes = 0 if shared else len(self.classes)
        instance_crops = _take_crops(stored, "instance", len(self.instance))
        class_crops = _take_crops(stored, "class", own_classes)
        if stored:
            raise _mismatch(f"latents of {min(stored)}, of which {INDEX_FILE} does not know")
        if shared:
            class_crops = [instance_crops[self.instance_picture(row)] for row in range(len(self.classes))]

        instance: list[StoredPicture] = []
        for number, prompt in enumerate(self.instance):
            variants = self.variants[number] if self.variants else ()
            dropout = self.dropout[number] if self.dropout else 0.0
            repeats = self.repeats[number] if self.repeats else 1
            instance.append(StoredPicture(instance_crops[number], prompt, variants, dropout, repeats))
        classes = tuple(map(StoredPicture, class_crops, self.classes))
        return Manifest(tuple(instance), classes, self.prompts.index("") if self.dropout else None)

    def _check_lengths(self) -> None:
        """Raise StageFailed where the index does not say as much of each picture, or numbers what is not there."""
        for name, values in (("variants", self.variants), ("dropout", self.dropout), ("repeats", self.repeats)):
            if values and len(values) != len(self.instance):
                raise _mismatch(f"{len(values)} {name} for {len(self.instance)} instance pictures in {INDEX_FILE}")
        if self.shows and len(self.shows) != len(self.classes):
            raise _mismatch(f"{len(self.shows)} pictures for {len(self.classes)} class rows in {INDEX_FILE}")
        used = {*self.instance, *self.classes}
        used.update(*self.variants)
        unknown_prompts = used - set(range(len(self.prompts)))
        if unknown_prompts:
            raise _mismatch(f"the prompt number {min(unknown_prompts)}, of {len(self.prompts)} in {INDEX_FILE}")
        unknown_pictures = set(self.shows) - set(range(len(self.instance)))
        if unknown_pictures:
            raise _mismatch(f"a class row that shows picture {min(unknown_pictures)}, of {len(self.instance)}")
        if self.dropout and "" not in self.prompts:
            raise _mismatch(f"caption dropout, but no empty prompt in {INDEX_FILE}")


def _all_prompts(picture: Picture) -> tuple[str, ...]:
    return (picture.prompt, *picture.variants)


def _numbers_of(texts: Iterable[str], numbers: Mapping[str, int]) -> tuple[int, ...]:
    return tuple(numbers[text] for text in texts)


def _crops_by_picture(names: Iterable[str]) -> dict[str, tuple[str, ...]]:
    """The id of each stored picture → the names of its crops.

    In the order of text, in which `.1000` stands before `.101`: a draw takes a crop by its place here, so that another
    order would be another result.
    """
    found: defaultdict[str, list[str]] = defaultdict(list)
    for name in sorted(names):
        found[picture_of(name)].append(name)
    return {picture: tuple(crops) for picture, crops in found.items()}


def _take_crops(stored: dict[str, tuple[str, ...]], half: Half, count: int) -> list[tuple[str, ...]]:
    """Take the crops of the pictures of a half out of `stored`, by number. Raises StageFailed where any is missing."""
    taken: list[tuple[str, ...]] = []
    for number in range(count):
        picture = picture_id(half, number)
        crops = stored.pop(picture, ())
        if set(crops) != {crop_name(picture, place) for place in range(max(1, len(crops)))}:
            raise _mismatch(f"{len(crops)} crops of {picture}, which are not all that {INDEX_FILE} needs")
        taken.append(crops)
    return taken


def _mismatch(found: str) -> StageFailed:
    return StageFailed(f"what `preprocess` stored does not fit together: found {found}",
                       fix="run again with `--force preprocess`")
