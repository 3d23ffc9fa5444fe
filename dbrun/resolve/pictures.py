"""Which pictures does a recipe name, and can each be used? Known contents are not read again."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from dbrun.errors import RecipeError
from dbrun.images import blank, integrity, masks, pixels, validation
from dbrun.images.discover import PictureFolder, list_pictures
from dbrun.images.validation import PictureInfo, validate_pictures
from dbrun.library_versions import installed_version
from dbrun.options.captions import SIDECAR, CaptionSource
from dbrun.recipe.checks.rules import HUB_ID
from dbrun.recipe.checks.suggestions import nearest
from dbrun.recipe.schema.images import Masks
from dbrun.resolve.masks import find_masks, summarize_names
from dbrun.stages.sources import Picture
from dbrun.store.atomic import explain_os_error
from dbrun.store.store import Store

EMBEDDED_PREFIX = "embedded:"
MAX_DUPLICATES_SHOWN = 5
"""Pictures that lie there twice and are named, before the rest is counted."""


@dataclass(frozen=True)
class FoundPictures:
    """The pictures by content. files: digest → a file with it, masks too; notes: what a person should know.

    file_names: of files, picture → those with its content and prompt; there are several where it lies there twice.
    masked_count: how many have a mask.
    """

    pictures: tuple[Picture, ...]
    files: Mapping[str, Path]
    notes: tuple[str, ...]
    file_names: Mapping[Picture, tuple[str, ...]] = field(default_factory=dict)
    masked_count: int = 0


@dataclass(frozen=True)
class PictureRequest:
    """A folder of pictures as a recipe names it. key: where; prompt: of pictures without one of their own, if any.

    background: `#rrggbb`, for pictures that are refused where they show nothing over it; None to ask no such thing.
    revision: of a data set of the Hub; captions, trigger, seed: where pictures have prompts of their own from, and
    how these vary. sizes_matter: whether the pictures' sizes count;
    masks: where masks are looked for, as in `Images.masks`;
    repeats: how often an epoch shows each.
    """

    key: str
    images: str
    prompt: str | None
    background: str | None = None
    revision: str | None = None
    captions: CaptionSource = SIDECAR
    trigger: str | None = None
    seed: int = 0
    sizes_matter: bool = False
    masks: Masks = "none"
    repeats: int = 1

    def check_picture(self, path: Path) -> None:
        """Raise RecipeError for a picture that shows nothing, or hides all of it."""
        if self.background is not None:
            blank.check_not_blank(path, self.background)
        if self.masks == "alpha":
            masks.read_alpha(path.read_bytes(), str(path))

    def cache_key_prefix(self, store: Store) -> str:
        """What decides on a picture besides its content: the code, by digest, and what is asked of it."""
        code = [validation.__file__, integrity.__file__]
        code += [blank.__file__, pixels.__file__] if self.background is not None else []
        code += [masks.__file__, pixels.__file__] if self.masks == "alpha" else []
        return "".join(store.digests.sha256(Path(file))[:16] for file in code) + (self.background or "")


def find_pictures(asked: PictureRequest, beside: Path, store: Store, decode: bool = True) -> FoundPictures:
    """The pictures of a folder. beside: where a relative path begins; decode: as of `screen`. Raises RecipeError."""
    folder, told = _picture_folder(asked, beside, store)
    found = list_pictures(folder, asked.key, asked.captions)
    try:
        digests = {p.path: store.digests.sha256(p.path) for p in found.pictures}
        rules = asked.cache_key_prefix(store)
    except OSError as error:
        raise explain_os_error(error, f"reading the pictures in {found.folder}") from error

    def known(path: Path) -> PictureInfo | None:
        data = store.image_checks.get(f"{rules}:{digests[path]}")
        seen = PictureInfo.from_data(data) if data is not None else None
        return seen if seen and seen.decoded >= decode else None

    def learnt(path: Path, seen: PictureInfo) -> None:
        store.image_checks.put(f"{rules}:{digests[path]}", seen.as_data())

    screened = validate_pictures(digests, known, learnt, asked.check_picture, decode)
    hiding, prompts = find_masks(screened, store, asked.masks), _prompts(found, asked)
    pictures = [Picture(digests[p.path], first, tuple(others), asked.captions.dropout,
                        (screened[p.path].width, screened[p.path].height) if asked.sizes_matter else None,
                        hiding.digests.get(p.path), asked.repeats, _decoder_version(screened[p.path].kind))
                for p, (first, *others) in zip(found.pictures, prompts, strict=True)]
    return FoundPictures(tuple(sorted(pictures, key=picture_sort_key)),
                         {**{sha256: path for path, sha256 in digests.items()}, **hiding.files},
                         (*told, *found.notes, *_shuffle_notes(asked, pictures), *_conversion_notes(screened),
                          *_duplicates(found, digests), *hiding.notes),
                         _file_names(pictures, found), hiding.masked_count)


def _file_names(pictures: Sequence[Picture], found: PictureFolder) -> Mapping[Picture, tuple[str, ...]]:
    names: dict[Picture, tuple[str, ...]] = {}
    for picture, named in zip(pictures, found.pictures, strict=True):
        names[picture] = (*names.get(picture, ()), named.path.name)
    return names


def _shuffle_notes(asked: PictureRequest, pictures: Sequence[Picture]) -> list[str]:
    """A word where tags were to change places and none can."""
    if not asked.captions.shuffles_tags or any(p.variants for p in pictures):
        return []
    key = asked.key.rpartition(".")[0]
    return [f"`{key}.captions.shuffle` changes nothing: no caption has two tags or more behind those that stay"]


def picture_sort_key(picture: Picture) -> tuple[str, str, tuple[str, ...], int]:
    """What pictures are sorted by: their contents, so that names and places do not matter."""
    return picture.digest, picture.prompt, picture.variants, picture.repeats


def _prompts(found: PictureFolder, asked: PictureRequest) -> list[tuple[str, ...]]:
    """Each picture's prompt, then others that it may have instead. Raises RecipeError where one has none."""
    usual = () if asked.prompt is None else (asked.prompt,)
    prompts = [asked.captions.prompts(p.captions, asked.trigger, asked.seed) or usual for p in found.pictures]
    if bare := [p.path for p, said in zip(found.pictures, prompts, strict=True) if not said]:
        more = f" and {len(bare) - 1} more pictures have" if len(bare) > 1 else " has"
        raise RecipeError(f"{bare[0]}{more} no prompt: {asked.captions.missing_reason.format(name=bare[0].stem)}",
                          fix="write an `instance_prompt`, which is for all such pictures")
    return prompts


def _picture_folder(asked: PictureRequest, beside: Path, store: Store) -> tuple[Path, tuple[str, ...]]:
    """The folder of the pictures, and what a person should know of it."""
    images = asked.images
    if asked.revision is not None:
        from dbrun.resolve.datasets import find_dataset

        return find_dataset(images, asked.revision, store)
    if not images.startswith(EMBEDDED_PREFIX):
        folder = beside / Path(images).expanduser()
        if HUB_ID.fullmatch(images) and not folder.parent.exists():
            raise RecipeError(f"no such folder: {folder}", fix="name a folder of pictures as "
                              f"`{asked.key}`; beside a data set of the Hub, write its `revision`")
        return folder, ()
    from dbrun.embedded import subject_names, subject_path

    name = images.removeprefix(EMBEDDED_PREFIX)
    if name not in subject_names():
        meant = nearest(name, subject_names()) or subject_names()[0]
        raise RecipeError(f"found {images!r}, but no such subject ships with dbrun",
                          fix=f"write {EMBEDDED_PREFIX}{meant}, or the folder of your pictures")
    return subject_path(name), ()


def _decoder_version(kind: str) -> str | None:
    """The package beside Pillow that reads this kind of picture, with its minor version: others may read otherwise."""
    return ".".join(f"pillow-heif {installed_version('pillow-heif')}".split(".")[:2]) if kind == "HEIF" else None


def _conversion_notes(screened: Mapping[Path, PictureInfo]) -> list[str]:
    """What will be done to pictures, one line for each kind."""
    by_note: dict[str, list[str]] = defaultdict(list)
    for path, seen in screened.items():
        for note in seen.notes:
            by_note[note].append(path.name)
    return [f"{summarize_names(names)}: {note}" for note, names in by_note.items()]


def _duplicates(found: PictureFolder, digests: Mapping[Path, str]) -> list[str]:
    first: dict[str, Path] = {}
    told = [f"{p.path.name} is the same picture as {first[digests[p.path]].name}" for p in found.pictures
            if first.setdefault(digests[p.path], p.path) != p.path]
    more = len(told) - MAX_DUPLICATES_SHOWN
    if more > 0:
        told = [*told[:MAX_DUPLICATES_SHOWN], f"{more} more are the same as another"]
    return told
