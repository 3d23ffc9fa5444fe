"""Pictures of a recipe: found, checked and given prompts. A picture with known content is not read again."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from dbrun.errors import RecipeError
from dbrun.images import blank, integrity, masks, pixels, validation
from dbrun.images.discover import PictureFolder, list_pictures
from dbrun.images.validation import PictureInfo, validate_pictures
from dbrun.input_file import path_exists
from dbrun.library_versions import installed_version
from dbrun.naming import HUB_ID
from dbrun.options.captions import SIDECAR, CaptionSource
from dbrun.recipe.checks.suggestions import nearest
from dbrun.recipe.schema.images import Masks
from dbrun.resolve.masks import find_masks, summarize_names
from dbrun.stages.sources import Picture
from dbrun.store.atomic import explain_os_error
from dbrun.store.store import Store

EMBEDDED_PREFIX = "embedded:"
"""Beginning of a path that means a subject which ships with dbrun."""
MAX_DUPLICATES_SHOWN = 5
"""Number of duplicate pictures that are named; the rest is counted."""


@dataclass(frozen=True)
class FoundPictures:
    """Pictures of one folder, sorted by content.

    files: sha256 → path of a picture or mask; notes: texts for people; file_names: picture → names of the files with
    its content and prompt, several if a file is there twice; masked_count: number of pictures with a mask.
    """

    pictures: tuple[Picture, ...]
    files: Mapping[str, Path]
    notes: tuple[str, ...]
    file_names: Mapping[Picture, tuple[str, ...]] = field(default_factory=dict)
    masked_count: int = 0


@dataclass(frozen=True)
class PictureRequest:
    """A folder of pictures as a recipe names it.

    key: recipe key, for messages; images: the path, Hub id or embedded subject; prompt: of pictures without a caption,
    None if each must have one; background: `#rrggbb`, to refuse pictures that are blank over it, None to accept them;
    revision: of a data set of the Hub; captions, trigger, seed: source of captions, and how they vary; sizes_matter:
    whether the pictures' sizes are part of the cache key; masks: as in `Images.masks`; repeats: how often an epoch
    shows each picture.
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
        """Raise RecipeError for a picture that is blank, or that its own transparency hides completely."""
        if self.background is not None:
            blank.check_not_blank(path, self.background)
        if self.masks == "alpha":
            masks.read_alpha(path.read_bytes(), str(path))

    def cache_key_prefix(self, store: Store) -> str:
        """Cache key of a picture's check without its content: digests of the checking code, and the background.

        Code that a request does not use is left out, so that a change of it makes no picture be read again.
        """
        code = [validation.__file__, integrity.__file__]
        if self.background is not None:
            code += [blank.__file__, pixels.__file__]
        if self.masks == "alpha":
            code += [masks.__file__, pixels.__file__]
        digests = [store.digests.sha256(Path(file))[:16] for file in code]
        return "".join(digests) + (self.background or "")


def find_pictures(request: PictureRequest, relative_to: Path, store: Store, decode: bool = True) -> FoundPictures:
    """Find and check the pictures of a folder.

    relative_to: folder that a relative path starts from; decode: as in `validate_pictures`. Raises RecipeError if
    there is no folder or picture, or if any picture, mask or prompt cannot be used.
    """
    folder, folder_notes = _picture_folder(request, relative_to, store)
    found = list_pictures(folder, request.key, request.captions)
    try:
        digests = {file.path: store.digests.sha256(file.path) for file in found.pictures}
        rules = request.cache_key_prefix(store)
    except OSError as error:
        raise explain_os_error(error, f"reading the pictures in {found.folder}") from error

    def cached(path: Path) -> PictureInfo | None:
        data = store.image_checks.get(f"{rules}:{digests[path]}")
        if data is None:
            return None
        info = PictureInfo.from_data(data)
        # a check without decoding cannot see a broken pixel, so it does not count if decoding is asked for
        if decode and not info.decoded:
            return None
        return info

    def remember(path: Path, info: PictureInfo) -> None:
        store.image_checks.put(f"{rules}:{digests[path]}", info.as_data())

    infos = validate_pictures(digests, cached, remember, request.check_picture, decode)
    found_masks = find_masks(infos, store, request.masks)
    prompts = _prompts(found, request)
    by_path: dict[Path, Picture] = {}
    names: dict[Picture, tuple[str, ...]] = {}
    for file in found.pictures:
        path = file.path
        picture = _picture(request, digests[path], infos[path], prompts[path], found_masks.digests.get(path))
        by_path[path] = picture
        # files with the same content and prompt are one picture with several names
        names[picture] = (*names.get(picture, ()), path.name)
    files = {digest: path for path, digest in digests.items()}
    notes = (*folder_notes, *found.notes, *_uncaptioned_notes(found, request),
             *_shuffle_notes(request, by_path.values()), *_conversion_notes(infos), *_duplicates(found, digests),
             *found_masks.notes)
    pictures = tuple(sorted(by_path.values(), key=picture_sort_key))
    return FoundPictures(pictures, {**files, **found_masks.files}, notes, names, found_masks.masked_count)


def _picture(request: PictureRequest, digest: str, info: PictureInfo, prompts: tuple[str, ...],
             mask: str | None) -> Picture:
    """Picture of a file. prompts: its prompt, then the variants; mask: digest of its mask file."""
    size = (info.width, info.height) if request.sizes_matter else None
    return Picture(digest, prompts[0], variants=prompts[1:], dropout=request.captions.dropout, size=size, mask=mask,
                   repeats=request.repeats, reader=_decoder_version(info.kind))


def _shuffle_notes(request: PictureRequest, pictures: Iterable[Picture]) -> list[str]:
    """A note if captions are to be shuffled and none has enough tags for that."""
    if not request.captions.shuffles_tags or any(p.variants for p in pictures):
        return []
    key = request.key.rpartition(".")[0]
    return [f"`{key}.captions.shuffle` changes nothing: no caption has two or more tags that may change places"]


def picture_sort_key(picture: Picture) -> tuple[str, str, tuple[str, ...], int]:
    """Sort key of a picture: its content and prompts, so that file names and folders change no cache key."""
    return picture.digest, picture.prompt, picture.variants, picture.repeats


def _prompts(found: PictureFolder, request: PictureRequest) -> Mapping[Path, tuple[str, ...]]:
    """Path of each picture → its prompt, then the variants. Raises RecipeError if a picture has no prompt."""
    usual = () if request.prompt is None else (request.prompt,)
    prompts: dict[Path, tuple[str, ...]] = {}
    for file in found.pictures:
        own = request.captions.prompts(file.captions, request.trigger, request.seed)
        prompts[file.path] = own or usual
    bare = [path for path, texts in prompts.items() if not texts]
    if bare:
        more = f" and {len(bare) - 1} more pictures have" if len(bare) > 1 else " has"
        raise RecipeError(f"{bare[0]}{more} no prompt: {request.captions.missing_reason.format(name=bare[0].stem)}",
                          fix="write an `instance_prompt`; it is used for all pictures without a caption")
    return prompts


def _uncaptioned_notes(found: PictureFolder, request: PictureRequest) -> list[str]:
    """A note if pictures have no caption of their own where others have one, or where the recipe asks for captions."""
    bare = [file.path for file in found.pictures if not file.captions]
    # no text file at all is the usual case, not an oversight
    nothing_asked = len(bare) == len(found.pictures) and request.captions.READS_SIDECARS
    if not bare or nothing_asked or not request.captions.PER_PICTURE:
        return []
    reason = request.captions.missing_reason.format(name=bare[0].stem)
    names = summarize_names([path.name for path in bare])
    return [f"{names} without a caption: {reason}, so the prompt is '{request.prompt}'"]


def _picture_folder(request: PictureRequest, relative_to: Path, store: Store) -> tuple[Path, tuple[str, ...]]:
    """Folder of the pictures, and notes on it. Raises RecipeError or NotFetched."""
    images = request.images
    if request.revision is not None:
        from dbrun.resolve.datasets import find_dataset

        return find_dataset(images, request.revision, store)
    if not images.startswith(EMBEDDED_PREFIX):
        folder = relative_to / Path(images).expanduser()
        # `owner/name` without a folder `owner` is probably a data set whose revision was forgotten
        if HUB_ID.fullmatch(images) and not path_exists(folder.parent):
            raise RecipeError(f"no such folder: {folder}", fix="name a folder of pictures as "
                              f"`{request.key}`; for a data set of the Hub, also write its `revision`")
        return folder, ()
    from dbrun.embedded import subject_names, subject_path

    name = images.removeprefix(EMBEDDED_PREFIX)
    if name not in subject_names():
        meant = nearest(name, subject_names()) or subject_names()[0]
        raise RecipeError(f"found {images!r}, but no such subject ships with dbrun",
                          fix=f"write {EMBEDDED_PREFIX}{meant}, or the folder of your pictures")
    return subject_path(name), ()


def _decoder_version(kind: str) -> str | None:
    """Package and minor version that decode this kind of picture, None for Pillow; another may give other pixels."""
    if kind != "HEIF":
        return None
    minor_version = ".".join(installed_version("pillow-heif").split(".")[:2])
    return f"pillow-heif {minor_version}"


def _conversion_notes(infos: Mapping[Path, PictureInfo]) -> list[str]:
    """Notes on how pictures are converted, one for each kind of conversion."""
    by_note: dict[str, list[str]] = defaultdict(list)
    for path, info in infos.items():
        for note in info.notes:
            by_note[note].append(path.name)
    return [f"{summarize_names(names)}: {note}" for note, names in by_note.items()]


def _duplicates(found: PictureFolder, digests: Mapping[Path, str]) -> list[str]:
    """Notes on pictures with the same content as an earlier one; beyond MAX_DUPLICATES_SHOWN they are counted."""
    first: dict[str, Path] = {}
    notes: list[str] = []
    for file in found.pictures:
        earlier = first.setdefault(digests[file.path], file.path)
        if earlier != file.path:
            notes.append(f"{file.path.name} is the same picture as {earlier.name}")
    left = len(notes) - MAX_DUPLICATES_SHOWN
    if left > 0:
        notes = [*notes[:MAX_DUPLICATES_SHOWN], f"{left} more are the same as another"]
    return notes
