"""The pictures that a recipe names, each checked for use. Known contents are not read again."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping
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
        if self.background is not None:
            code += [blank.__file__, pixels.__file__]
        if self.masks == "alpha":
            code += [masks.__file__, pixels.__file__]
        digests = [store.digests.sha256(Path(file))[:16] for file in code]
        return "".join(digests) + (self.background or "")


def find_pictures(asked: PictureRequest, beside: Path, store: Store, decode: bool = True) -> FoundPictures:
    """The pictures of a folder. beside: where a relative path begins; decode: as of `validate_pictures`.

    Raises RecipeError.
    """
    folder, told = _picture_folder(asked, beside, store)
    found = list_pictures(folder, asked.key, asked.captions)
    try:
        digests = {file.path: store.digests.sha256(file.path) for file in found.pictures}
        rules = asked.cache_key_prefix(store)
    except OSError as error:
        raise explain_os_error(error, f"reading the pictures in {found.folder}") from error

    def cached(path: Path) -> PictureInfo | None:
        data = store.image_checks.get(f"{rules}:{digests[path]}")
        if data is None:
            return None
        info = PictureInfo.from_data(data)
        # a picture of which only the frame was read has to be read again where every pixel is asked for
        if decode and not info.decoded:
            return None
        return info

    def remember(path: Path, info: PictureInfo) -> None:
        store.image_checks.put(f"{rules}:{digests[path]}", info.as_data())

    infos = validate_pictures(digests, cached, remember, asked.check_picture, decode)
    found_masks = find_masks(infos, store, asked.masks)
    prompts = _prompts(found, asked)
    by_path: dict[Path, Picture] = {}
    names: dict[Picture, tuple[str, ...]] = {}
    for file in found.pictures:
        path = file.path
        picture = _picture(asked, digests[path], infos[path], prompts[path], found_masks.digests.get(path))
        by_path[path] = picture
        # equal pictures are files of one content and prompt: one picture with several names
        names[picture] = (*names.get(picture, ()), path.name)
    files = {digest: path for path, digest in digests.items()}
    notes = (*told, *found.notes, *_shuffle_notes(asked, by_path.values()), *_conversion_notes(infos),
             *_duplicates(found, digests), *found_masks.notes)
    return FoundPictures(tuple(sorted(by_path.values(), key=picture_sort_key)), {**files, **found_masks.files}, notes,
                         names, found_masks.masked_count)


def _picture(asked: PictureRequest, digest: str, info: PictureInfo, prompts: tuple[str, ...],
             mask: str | None) -> Picture:
    """A picture file by content. prompts: its own, then others that it may have instead; mask: its mask's digest."""
    size = (info.width, info.height) if asked.sizes_matter else None
    return Picture(digest, prompts[0], variants=prompts[1:], dropout=asked.captions.dropout, size=size, mask=mask,
                   repeats=asked.repeats, reader=_decoder_version(info.kind))


def _shuffle_notes(asked: PictureRequest, pictures: Iterable[Picture]) -> list[str]:
    """A word where tags were to change places and none can."""
    if not asked.captions.shuffles_tags or any(p.variants for p in pictures):
        return []
    key = asked.key.rpartition(".")[0]
    return [f"`{key}.captions.shuffle` changes nothing: no caption has two tags or more behind those that stay"]


def picture_sort_key(picture: Picture) -> tuple[str, str, tuple[str, ...], int]:
    """What pictures are sorted by: their contents, so that names and places do not matter."""
    return picture.digest, picture.prompt, picture.variants, picture.repeats


def _prompts(found: PictureFolder, asked: PictureRequest) -> Mapping[Path, tuple[str, ...]]:
    """Each picture's prompt, then others that it may have instead. Raises RecipeError where one has none."""
    usual = () if asked.prompt is None else (asked.prompt,)
    prompts: dict[Path, tuple[str, ...]] = {}
    for file in found.pictures:
        own = asked.captions.prompts(file.captions, asked.trigger, asked.seed)
        prompts[file.path] = own or usual
    bare = [path for path, texts in prompts.items() if not texts]
    if bare:
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
    if kind != "HEIF":
        return None
    minor_version = ".".join(installed_version("pillow-heif").split(".")[:2])
    return f"pillow-heif {minor_version}"


def _conversion_notes(infos: Mapping[Path, PictureInfo]) -> list[str]:
    """What will be done to pictures, one line for each kind."""
    by_note: dict[str, list[str]] = defaultdict(list)
    for path, info in infos.items():
        for note in info.notes:
            by_note[note].append(path.name)
    return [f"{summarize_names(names)}: {note}" for note, names in by_note.items()]


def _duplicates(found: PictureFolder, digests: Mapping[Path, str]) -> list[str]:
    """A line for each of the first few pictures whose content an earlier one has."""
    first: dict[str, Path] = {}
    told: list[str] = []
    for file in found.pictures:
        earlier = first.setdefault(digests[file.path], file.path)
        if earlier != file.path:
            told.append(f"{file.path.name} is the same picture as {earlier.name}")
    more = len(told) - MAX_DUPLICATES_SHOWN
    if more > 0:
        told = [*told[:MAX_DUPLICATES_SHOWN], f"{more} more are the same as another"]
    return told
