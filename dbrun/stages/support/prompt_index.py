"""The prompt index, index.json: the prompts of each picture; written by `preprocess`, read by `train`."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from dbrun.errors import StageFailed
from dbrun.images.manifest import Half, Manifest, StoredPicture, crop_name, picture_id, picture_of
from dbrun.input_file import read_json
from dbrun.stages.sources import Picture

INDEX_FILE = "index.json"


@dataclass(frozen=True)
class PromptIndex:
    """The prompts of all pictures.

    prompts: the distinct ones, sorted; a prompt's number is its place here. instance, classes: the prompt number of
    each picture of the half. variants: for each instance picture the numbers of all prompts that it may have. dropout:
    for each instance picture the share of draws with the empty prompt, 0 to 1. shows: for each class row the number of
    the instance picture that it shows, where the class half shows instance pictures, but not all in turn. repeats: how
    often an epoch shows each instance picture. The last four are empty where no picture uses them.
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
        """The index of these instance pictures and of class rows with these prompts. shows: as the field."""
        texts = set(classes)
        for picture in pictures:
            texts.update(_all_prompts(picture))
        # a list that no picture uses stays empty and is not written: the file has the bytes, and the artifact the
        # digest, that it had before the feature existed
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
        """Write index.json."""
        content = {"prompts": self.prompts, "instance": self.instance, "class": self.classes}
        optional = {"variants": self.variants, "dropout": self.dropout, "shows": self.shows, "repeats": self.repeats}
        used = {name: values for name, values in optional.items() if values}
        text = json.dumps({**content, **used}, indent=1, sort_keys=True)
        (folder / INDEX_FILE).write_text(text + "\n", encoding="utf-8")

    @classmethod
    def read(cls, folder: Path) -> PromptIndex:
        """The index that `write` wrote."""
        document = read_json(folder / INDEX_FILE)
        return cls(
            prompts=tuple(document["prompts"]),
            instance=tuple(document["instance"]),
            classes=tuple(document["class"]),
            variants=tuple(map(tuple, document.get("variants", ()))),
            dropout=tuple(document.get("dropout", ())),
            shows=tuple(document.get("shows", ())),
            repeats=tuple(document.get("repeats", ())))

    def instance_picture(self, row: int) -> int:
        """The number of the instance picture that a class row shows, where the class half shows instance pictures."""
        if self.shows:
            return self.shows[row]
        return row % len(self.instance)

    def manifest(self, crops: Iterable[str], *, shared: bool) -> Manifest:
        """The pictures of both halves with their crops and prompts.

        crops: the names of all stored latents. shared: whether the class half shows the instance pictures and has none
        of its own. Raises StageFailed where index and crops do not fit together.
        """
        self._check_lengths()
        stored = _crops_by_picture(crops)
        own_classes = 0 if shared else len(self.classes)
        instance_crops = _take_crops(stored, "instance", len(self.instance))
        class_crops = _take_crops(stored, "class", own_classes)
        if stored:
            raise _mismatch(f"latents of {min(stored)}, which {INDEX_FILE} does not name")
        if shared:
            class_crops = [instance_crops[self.instance_picture(row)] for row in range(len(self.classes))]

        instance: list[StoredPicture] = []
        for number, prompt in enumerate(self.instance):
            variants = self.variants[number] if self.variants else ()
            dropout = self.dropout[number] if self.dropout else 0.0
            repeats = self.repeats[number] if self.repeats else 1
            instance.append(StoredPicture(instance_crops[number], prompt, variants, dropout, repeats))
        classes = tuple(map(StoredPicture, class_crops, self.classes))
        empty_prompt = self.prompts.index("") if self.dropout else None
        return Manifest(tuple(instance), classes, empty_prompt)

    def _check_lengths(self) -> None:
        """Raise StageFailed where a list has another length than its half, or a number is out of range."""
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
    """The prompts that a picture may have, its own first."""
    return (picture.prompt, *picture.variants)


def _numbers_of(texts: Iterable[str], numbers: Mapping[str, int]) -> tuple[int, ...]:
    """The prompt number of each text."""
    return tuple(numbers[text] for text in texts)


def _crops_by_picture(names: Iterable[str]) -> dict[str, tuple[str, ...]]:
    """The id of each stored picture → the names of its crops."""
    # sorted as text, `.1000` before `.101`: a draw takes a crop by its place here, so another order would be another
    # result
    crops_by_picture: defaultdict[str, list[str]] = defaultdict(list)
    for name in sorted(names):
        crops_by_picture[picture_of(name)].append(name)
    return {picture: tuple(crops) for picture, crops in crops_by_picture.items()}


def _take_crops(stored: dict[str, tuple[str, ...]], half: Half, count: int) -> list[tuple[str, ...]]:
    """Remove the crops of a half from `stored`, and return them by picture number.

    Raises StageFailed where a crop is missing.
    """
    taken: list[tuple[str, ...]] = []
    for number in range(count):
        picture = picture_id(half, number)
        crops = stored.pop(picture, ())
        # numbered from 0 without a gap, and at least one
        expected = {crop_name(picture, place) for place in range(max(1, len(crops)))}
        if set(crops) != expected:
            raise _mismatch(f"{len(crops)} crops of {picture}, which are not all that {INDEX_FILE} needs")
        taken.append(crops)
    return taken


def _mismatch(found: str) -> StageFailed:
    """The error for files of `preprocess` that do not fit together. found: a noun phrase for the message."""
    return StageFailed(f"what `preprocess` stored does not fit together: found {found}",
                       fix="run again with `--force preprocess`")
