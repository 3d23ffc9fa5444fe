"""The masks of a recipe's pictures, each checked for use. Known contents are not read again."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from dbrun.errors import RecipeError
from dbrun.images import masks, pixels
from dbrun.images.validation import TRANSPARENCY_NOTE, PictureInfo
from dbrun.recipe.schema.images import Masks
from dbrun.store.atomic import explain_os_error
from dbrun.store.store import Store


@dataclass(frozen=True)
class FoundMasks:
    """digests: picture → sha256 of its mask; files: sha256 → a mask with it; notes: what a person should know.

    masked_count: how many pictures have a mask, be it a file or their own transparency.
    """

    digests: Mapping[Path, str] = field(default_factory=dict)
    files: Mapping[str, Path] = field(default_factory=dict)
    notes: Sequence[str] = ()
    masked_count: int = 0


def find_masks(pictures: Mapping[Path, PictureInfo], store: Store, asked: Masks) -> FoundMasks:
    """The masks beside pictures, where they are asked for. Raises RecipeError that names all that cannot be used."""
    found = masks.find_mask_files(pictures)
    if asked == "files":
        return _check_mask_files(pictures, found, store)
    notes: list[str] = []
    if found:
        names = summarize_names([mask.name for mask in found.values()])
        notes.append(f"{names}: masks are ignored, `images.masks: files` would use them")
    opaque = [path.name for path, info in pictures.items() if TRANSPARENCY_NOTE not in info.notes]
    if asked == "alpha" and opaque:
        notes.append(f"{summarize_names(opaque)}: not transparent, so all of it counts")
    return FoundMasks(notes=notes, masked_count=len(pictures) - len(opaque))


def _check_mask_files(pictures: Mapping[Path, PictureInfo], found: Mapping[Path, Path], store: Store) -> FoundMasks:
    """The mask files of pictures, by content. found: picture → its mask; raises as `find_masks`."""
    try:
        code = "".join(store.digests.sha256(Path(file))[:16] for file in (masks.__file__, pixels.__file__))
        digests = {picture: store.digests.sha256(mask) for picture, mask in found.items()}
    except OSError as error:
        raise explain_os_error(error, "reading masks") from error
    bad: list[RecipeError] = []
    for picture, mask in found.items():
        size = pictures[picture].width, pictures[picture].height
        known = f"{code}:mask:{digests[picture]}:{size[0]}x{size[1]}"
        try:
            if store.image_checks.get(known) is None:
                masks.check_mask(mask, size)
                store.image_checks.put(known, {"mask": True})
        except RecipeError as error:
            bad.append(error)
    if bad:
        raise RecipeError("\n".join(error.message for error in bad), fix=bad[0].fix)
    notes: list[str] = []
    bare = [picture.name for picture in pictures if picture not in found]
    if bare:
        notes.append(f"{summarize_names(bare)}: no mask, so all of it counts")
    files = {digest: found[picture] for picture, digest in digests.items()}
    return FoundMasks(digests, files, notes, len(found))


def check_has_masks(asked: Masks, many: int) -> None:
    """Raise RecipeError where masks are asked for, but no picture of the recipe has one."""
    if many or asked == "none":
        return
    what = "is transparent"
    if asked == "files":
        what = f"has a mask: NAME{' or NAME'.join(masks.MASK_SUFFIXES)} beside it"
    raise RecipeError(f"found '{asked}', but no picture {what}", fix="give some of them masks, or write `masks: none`")


def summarize_names(names: Sequence[str]) -> str:
    """The first of some names, and how many more there are."""
    more = f" and {len(names) - 1} more" if len(names) > 1 else ""
    return names[0] + more
