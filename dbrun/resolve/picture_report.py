"""What becomes of each picture of a recipe, and what is odd about it? Known contents are not looked at again."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from dbrun.images import blank, pixels, quality
from dbrun.images.buckets import Cutting, Frame
from dbrun.images.quality import BLURRED, Look, alike
from dbrun.recipe.schema.model import Recipe
from dbrun.resolve.picture_shapes import MUCH
from dbrun.resolve.sources import Located
from dbrun.stages.base import Picture
from dbrun.stages.support.crops import cutting_of
from dbrun.store.atomic import said
from dbrun.store.store import Store

OFTEN = 500
"""Pictures after which what was seen so far is kept, in case the command is killed."""
TINY = 1.25
"""A picture that must be made more than this many times wider shows fewer pixels than it is trained with."""


@dataclass(frozen=True)
class Row:
    """One picture. half: `instance` or `class`; width, height: upright; shape: (width, height) it is trained in.

    lost: the share that is cut off; ways: how many crops and mirror images of it are shown; odd: what is odd about it.
    """

    name: str
    half: str
    width: int
    height: int
    shape: tuple[int, int] | None
    lost: float
    ways: int
    mask: bool
    prompt: str
    odd: tuple[str, ...]

    def as_data(self) -> dict[str, object]:
        """The same as JSON data."""
        return {**asdict(self), "lost": round(self.lost, 4)}


def picture_rows(recipe: Recipe, located: Located, store: Store,
                 seen: Callable[[int, int], None] = lambda done, total: None) -> Sequence[Row]:
    """A row for each picture of the recipe, by half and name. seen: told how many were looked at for the first time."""
    sources, files = located.sources, located.files
    halves = {"instance": sources.pictures, "class": sources.class_pictures}
    # a picture that lies there twice is in the list twice
    asked = sorted(((half, name, picture) for half, pictures in halves.items() for picture in dict.fromkeys(pictures)
                    for name in located.names.get(picture, (files[picture.digest].name,))),
                   key=lambda one: (one[0] != "instance", one[1], one[2].prompt))
    known = _looks({picture.digest: files[picture.digest] for _, _, picture in asked}, store, seen)
    doubles = _doubles([(name, picture.digest) for _, name, picture in asked], known)
    cut = cutting_of(recipe, sources.base.folder)
    return [_row(half, name, picture, known[picture.digest], cut, doubles.get(number))
            for number, (half, name, picture) in enumerate(asked)]


def _looks(files: Mapping[str, Path], store: Store, seen: Callable[[int, int], None]) -> Mapping[str, Look]:
    """How the pictures look, by digest."""
    found: dict[str, Look] = {}
    try:
        judges = (quality.__file__, blank.__file__, pixels.__file__)
        rules = "".join(store.digests.of(Path(file))[:16] for file in judges)
        new = [digest for digest in files if store.looks.get(f"{rules}:{digest}") is None]
        for done, digest in enumerate(new):
            seen(done, len(new))
            store.looks.put(f"{rules}:{digest}", quality.look(files[digest]).as_data())
            if done % OFTEN == OFTEN - 1:
                store.save_tables()
        for digest in files:
            data = store.looks.get(f"{rules}:{digest}")
            found[digest] = Look.from_data(data) if data else quality.look(files[digest])
    except OSError as error:
        raise said(error, "looking at pictures") from error
    finally:
        store.save_tables()
    return found


def _doubles(named: Sequence[tuple[str, str]], known: Mapping[str, Look]) -> Mapping[int, str]:
    """What is to be said of pictures that are the same as an earlier one, or nearly."""
    first: dict[str, int] = {}
    same = {number: earlier for number, (_, digest) in enumerate(named)
            if (earlier := first.setdefault(digest, number)) != number}
    # where nothing is shown, everything looks alike
    shown = [number for number, (_, digest) in enumerate(named) if number not in same and not known[digest].shows]
    near = alike([known[named[number][1]] for number in shown])
    return {**{number: f"the same picture as {named[earlier][0]}" for number, earlier in same.items()},
            **{shown[number]: f"nearly the same as {named[shown[earlier]][0]}{', mirrored' * mirrored}"
               for number, (earlier, mirrored) in near.items()}}


def _row(half: str, name: str, picture: Picture, seen: Look, cut: Cutting | None, double: str | None) -> Row:
    size = seen.width, seen.height
    frames = cut.frames(picture.digest, size) if cut else ()
    frame = frames[0] if frames else None
    return Row(name, half, *size, frame.size if frame else None, frame.lost if frame else 0.0, max(1, len(frames)),
               picture.mask is not None, picture.prompt, (*_odd(seen, frame), *([double] if double else [])))


def _odd(seen: Look, frame: Frame | None) -> Iterator[str]:
    if seen.shows:
        yield seen.shows
    elif seen.blur >= BLURRED:
        yield "blurred"
    if frame is None:
        return
    times = frame.enlargement((seen.width, seen.height))
    if times > TINY:
        yield f"tiny: made {times:.1f} times larger"
    if frame.lost >= MUCH:
        yield f"{frame.lost:.0%} cut off"
