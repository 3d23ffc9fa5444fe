"""Picture files of a folder with their captions, and a note on every file that is ignored."""

from __future__ import annotations

import os
from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path

from dbrun.errors import RecipeError
from dbrun.images.beside import NamesOfFolder, stem_of
from dbrun.images.captions import TEXT_SUFFIX
from dbrun.images.masks import is_mask, masks_of_stems
from dbrun.images.metadata import metadata_files
from dbrun.input_file import describe_kind, folder_exists, is_file, undecodable
from dbrun.options.captions import SIDECAR, CaptionSource

PICTURE_SUFFIXES = (".avif", ".bmp", ".gif", ".heic", ".heif", ".jpeg", ".jpg", ".png", ".tif", ".tiff", ".webp")
IGNORED_NAMES = ("thumbs.db", "desktop.ini")
MAX_SHOWN_NAMES = 5
"""Most names of files that a message lists."""
NO_SUCH_PICTURE = "none of the pictures read here has the same name"
TRAIN_SPLIT = "train"
"""Sub-folder with the training pictures of a data set in the Hub's `imagefolder` layout."""


@dataclass(frozen=True)
class PictureFile:
    """Picture file that is not read yet. captions: its own captions, of which training draws one; may be empty."""

    path: Path
    captions: tuple[str, ...] = ()


@dataclass(frozen=True)
class PictureFolder:
    """Picture files of a folder, sorted by name. notes: one sentence for every file that is ignored."""

    folder: Path
    pictures: tuple[PictureFile, ...]
    notes: tuple[str, ...]


def list_pictures(folder: Path, key: str = "subject.images", captions: CaptionSource = SIDECAR) -> PictureFolder:
    """List the pictures of a folder; of its sub-folders only those that its metadata name. Raises RecipeError for none.

    A folder without pictures but with a sub-folder `train` is a data set with splits; then `train` is listed.
    key: the recipe's key that names the folder; captions: the source of the pictures' own prompts.
    """
    entries = _list_folder(folder, key)
    names = list(entries)
    _check_names(folder, names)
    pictures = [name for name, entry in entries.items() if is_picture(name) and is_file(entry)]
    if not pictures and TRAIN_SPLIT in names and not metadata_files(names):
        below = list_pictures(folder / TRAIN_SPLIT, key, captions)
        return replace(below, notes=(f"the pictures are those in {TRAIN_SPLIT}/", *below.notes))
    read = captions.read(folder, pictures, names)
    # metadata may name pictures in sub-folders; sorted, because picture numbers and seeds follow this order
    listed = sorted({*pictures, *filter(is_picture, read.captions)})
    if not listed:
        raise RecipeError(f"no pictures in {folder}: found {_describe_names(folder, names)}, "
                          f"allowed: files that end with {_join(PICTURE_SUFFIXES)}",
                          fix=f"put pictures there, or name another folder as `{key}`")
    used = {*listed, *read.used_names, *_masks_of(listed, names)}
    # a sub-folder with listed pictures is used, too
    used.update(name.partition("/")[0] for name in listed)
    # one note for all text files where this source reads none
    texts: list[str] = []
    if not captions.READS_SIDECARS:
        texts = [name for name in names if name.lower().endswith(TEXT_SUFFIX) and name not in used]
    notes = list(read.notes)
    if texts:
        notes.append(f"{texts[0]} and other text files are ignored: `captions: {{type: {captions.NAME}}}` does not "
                     "read them")
    # metadata may name files in sub-folders that are no pictures
    notes += [f"{name} is ignored: dbrun does not read this picture format" for name in read.captions
              if "/" in name and name not in used]
    used_names = NamesOfFolder(used)
    notes += [_ignored_note(folder / name, used_names) for name in names if name not in used and name not in texts]
    files = tuple(PictureFile(folder / name, read.captions.get(name, ())) for name in listed)
    return PictureFolder(folder, files, tuple(notes))


def _masks_of(pictures: Iterable[str], names: Iterable[str]) -> list[str]:
    """Names of the masks in a folder that have a picture there."""
    stems = [stem_of(picture) for picture in pictures if "/" not in picture]
    return list(masks_of_stems(stems, names).values())


def is_picture(name: str) -> bool:
    """Whether a file's name has the suffix of a picture and is not that of a mask."""
    return name.lower().endswith(PICTURE_SUFFIXES) and not is_mask(name)


def _list_folder(folder: Path, key: str) -> dict[str, os.DirEntry[str]]:
    """Visible entries of a folder by name, sorted. Raises RecipeError where the folder cannot be listed."""
    try:
        # scandir: it gives the kind of every entry without one more system call each
        with os.scandir(folder) as listing:
            entries = sorted(listing, key=lambda entry: entry.name)
        return {entry.name: entry for entry in entries
                if not entry.name.startswith(".") and entry.name.lower() not in IGNORED_NAMES}
    except FileNotFoundError:
        raise RecipeError(f"no such folder: {folder}{_suggest_folder(folder)}",
                          fix=f"name a folder of pictures as `{key}`") from None
    except NotADirectoryError:
        raise RecipeError(f"{folder} is a file, expected a folder of pictures",
                          fix="put the pictures into a folder of their own and name that") from None
    except (OSError, ValueError) as error:
        raise RecipeError(f"cannot read the folder {str(folder)!r}: {error}") from None


def _check_names(folder: Path, names: Iterable[str]) -> None:
    """Raise RecipeError for pictures and caption files whose names are not UTF-8."""
    # refused before the training: its report, its lock and its log could not hold such a name
    read = [name for name in names if name.lower().endswith((*PICTURE_SUFFIXES, TEXT_SUFFIX))]
    bad = [shown for shown in map(undecodable, read) if shown is not None]
    if bad:
        raise RecipeError(f"{folder}: found names that are not UTF-8: {_join(bad[:MAX_SHOWN_NAMES])}",
                          fix="rename the files; `convmv -f latin1 -t utf-8 --notest FOLDER` renames all of a folder")


def _suggest_folder(folder: Path) -> str:
    """End of a message that suggests the existing folder with the nearest name; empty where none is near."""
    from difflib import get_close_matches

    parent = folder.parent
    if not folder_exists(parent):
        return f"; {parent} does not exist either"
    siblings = sorted(path.name for path in parent.iterdir() if path.is_dir())
    close = get_close_matches(folder.name, siblings, n=1)
    if not close:
        return ""
    return f"; did you mean '{parent / close[0]}'?"


def _ignored_note(path: Path, used: NamesOfFolder) -> str:
    """Sentence that says why a name is ignored. used: the names that are used."""
    name = path.name
    if is_mask(name):
        return f"{name} is ignored: it is a mask, and {NO_SUCH_PICTURE}"
    if path.suffix.lower() == TEXT_SUFFIX:
        # some other tools name a caption dog1.jpg.txt
        pictures = used.same_names(path.stem)
        if pictures:
            return f"{name} is ignored: the prompt of {pictures[0]} is named {stem_of(pictures[0])}{TEXT_SUFFIX}"
        return f"{name} is ignored: {NO_SUCH_PICTURE}"
    if metadata_files([name]):
        return f"{name} is ignored: `captions: {{type: metadata}}` reads it"
    if path.is_dir():
        return f"{path.name}/ is ignored: folders below the folder of pictures are not read"
    kind = describe_kind(path)
    if kind is not None:
        return f"{path.name} is ignored: it is {kind}"
    return f"{path.name} is ignored: {path.suffix or 'a name without suffix'} is not a picture format that dbrun reads"


def _describe_names(folder: Path, names: list[str]) -> str:
    """Number and kinds of the names in a folder without pictures, for a message."""
    if not names:
        return "nothing"
    kinds: set[str] = set()
    for name in names:
        kind = describe_kind(folder / name)
        if (folder / name).is_dir():
            kinds.add("folders")
        elif kind is not None:
            kinds.add(kind)
        else:
            kinds.add(Path(name).suffix or "no suffix")
    noun = "names"
    if len(names) == 1:
        noun = "name"
    return f"{len(names)} other {noun} ({_join(sorted(kinds)[:6])})"


def _join(words: Iterable[str]) -> str:
    return ", ".join(words)
