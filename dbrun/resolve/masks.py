"""Masks of a recipe's pictures: found and checked. A mask with known content is not read again."""

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
    """Masks of some pictures. digests: picture → sha256 of its mask file; files: sha256 → path of a mask.

    notes: texts for people; masked_count: number of pictures with a mask, be it a file or their own transparency.
    """

    digests: Mapping[Path, str] = field(default_factory=dict)
    files: Mapping[str, Path] = field(default_factory=dict)
    notes: Sequence[str] = ()
    masked_count: int = 0


def find_masks(pictures: Mapping[Path, PictureInfo], store: Store, option: Masks) -> FoundMasks:
    """Find the masks of pictures. option: `images.masks` of the recipe.

    Raises RecipeError that names every mask which cannot be used.
    """
    found = masks.find_mask_files(pictures)
    if option == "files":
        return _check_mask_files(pictures, found, store)
    notes: list[str] = []
    # mask files without the option are probably a forgotten option, and never training pictures
    if found:
        names = summarize_names([mask.name for mask in found.values()])
        notes.append(f"{names}: masks are ignored, `images.masks: files` would use them")
    opaque = [path.name for path, info in pictures.items() if TRANSPARENCY_NOTE not in info.notes]
    if option == "alpha" and opaque:
        notes.append(f"{summarize_names(opaque)}: not transparent, so the whole picture counts")
    return FoundMasks(notes=notes, masked_count=len(pictures) - len(opaque))


def _check_mask_files(pictures: Mapping[Path, PictureInfo], found: Mapping[Path, Path], store: Store) -> FoundMasks:
    """Check mask files by content. found: picture → its mask. Raises as `find_masks`."""
    try:
        # the digest of the checking code is in the cache key, so that a better check looks at every mask again
        code = "".join(store.digests.sha256(Path(file))[:16] for file in (masks.__file__, pixels.__file__))
        digests = {picture: store.digests.sha256(mask) for picture, mask in found.items()}
    except OSError as error:
        raise explain_os_error(error, "reading masks") from error
    bad: list[RecipeError] = []
    for picture, mask in found.items():
        size = pictures[picture].width, pictures[picture].height
        check_key = f"{code}:mask:{digests[picture]}:{size[0]}x{size[1]}"
        try:
            if store.image_checks.get(check_key) is None:
                masks.check_mask(mask, size)
                store.image_checks.put(check_key, {"mask": True})
        except RecipeError as error:
            bad.append(error)
    if bad:
        raise RecipeError("\n".join(error.message for error in bad), fix=bad[0].fix)
    notes: list[str] = []
    unmasked = [picture.name for picture in pictures if picture not in found]
    if unmasked:
        notes.append(f"{summarize_names(unmasked)}: no mask, so the whole picture counts")
    files = {digest: found[picture] for picture, digest in digests.items()}
    return FoundMasks(digests, files, notes, len(found))


def check_has_masks(option: Masks, masked_count: int) -> None:
    """Raise RecipeError if masks are asked for and no picture has one. masked_count: number of pictures with a mask."""
    if masked_count or option == "none":
        return
    lack = "is transparent"
    if option == "files":
        names = " or ".join(f"NAME{suffix}" for suffix in masks.MASK_SUFFIXES)
        lack = f"has a mask: {names} beside it"
    raise RecipeError(f"found '{option}', but no picture {lack}", fix="give some of them masks, or write `masks: none`")


def summarize_names(names: Sequence[str]) -> str:
    """First name and the number of the others: `a.png and 3 more`. names: at least one."""
    more = f" and {len(names) - 1} more" if len(names) > 1 else ""
    return names[0] + more
