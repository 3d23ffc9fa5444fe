"""Which pictures a folder holds, which prompts stand beside them, and what in it is no picture."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from dbrun.errors import RecipeError

SUFFIXES = (".bmp", ".gif", ".jpeg", ".jpg", ".png", ".tif", ".tiff", ".webp")
SILENT = ("thumbs.db", "desktop.ini")
LONGEST = 16 * 1024


@dataclass(frozen=True)
class Pictured:
    """A picture file. prompt: what its .txt says, None where there is none."""

    path: Path
    prompt: str | None


@dataclass(frozen=True)
class Found:
    """What a folder of pictures holds, sorted by name. notes: what was left aside, in words."""

    folder: Path
    pictures: tuple[Pictured, ...]
    notes: tuple[str, ...]


def discover(folder: Path, key: str = "subject.images") -> Found:
    """The pictures of a folder, not of folders below it; raises RecipeError where there are none to use.

    key: what names the folder in the recipe.
    """
    names = _names(folder, key)
    pictures = [n for n in names if Path(n).suffix.lower() in SUFFIXES and (folder / n).is_file()]
    if not pictures:
        raise RecipeError(f"no pictures in {folder}: found {_what(folder, names)}, "
                          f"allowed: files that end with {_list(SUFFIXES)}",
                          fix=f"put pictures there, or name another folder as `{key}`")
    stems, present, used = {Path(n).stem for n in pictures}, set(names), set(pictures)
    problems: list[str] = []
    prompts = {stem: _prompt(folder / f"{stem}.txt", problems) for stem in stems if f"{stem}.txt" in present}
    if problems:
        raise RecipeError("\n".join(sorted(problems)), fix="write the prompt into the file, or delete it")
    notes = [note for n in names if n not in used and (note := _note(folder / n, stems, used))]
    found = tuple(Pictured(folder / n, prompts.get(Path(n).stem)) for n in pictures)
    return Found(folder, found, tuple(notes))


def _names(folder: Path, key: str) -> list[str]:
    """The visible names in a folder, sorted."""
    try:
        names = sorted(p.name for p in folder.iterdir())
        return [n for n in names if not n.startswith(".") and n.lower() not in SILENT]
    except FileNotFoundError:
        raise RecipeError(f"no such folder: {folder}{_near(folder)}",
                          fix=f"name a folder of pictures as `{key}`") from None
    except NotADirectoryError:
        raise RecipeError(f"{folder} is a file, expected a folder of pictures",
                          fix="put the pictures into a folder of their own and name that") from None
    except (OSError, ValueError) as error:
        raise RecipeError(f"cannot read the folder {str(folder)!r}: {error}") from None


def _near(folder: Path) -> str:
    """The existing folder that was probably meant."""
    from difflib import get_close_matches

    parent = folder.parent
    if not parent.is_dir():
        return f"; {parent} does not exist either"
    close = get_close_matches(folder.name, sorted(p.name for p in parent.iterdir() if p.is_dir()), n=1)
    return f"; did you mean '{parent / close[0]}'?" if close else ""


def _prompt(file: Path, problems: list[str]) -> str | None:
    """The prompt in a text file; what is wrong with it becomes a problem."""
    try:
        with file.open("rb") as opened:
            data = opened.read(LONGEST + 1)
        text = data.decode("utf-8-sig").strip()
    except UnicodeDecodeError as error:
        problems.append(f"{file}: found the byte 0x{data[error.start]:02x}, expected a prompt as UTF-8 text")
    except OSError as error:
        problems.append(f"{file}: cannot be read: {error.strerror}")
    else:
        if not text:
            problems.append(f"{file}: found an empty file, expected the prompt of the picture beside it")
        elif len(data) > LONGEST:
            problems.append(f"{file}: found over {LONGEST // 1024} KiB of text, expected a prompt")
        elif not " ".join(text.split()).isprintable():
            problems.append(f"{file}: found control characters, expected a prompt")
        else:
            return " ".join(text.split())
    return None


def _note(path: Path, stems: Iterable[str], pictures: Iterable[str]) -> str | None:
    """Why a name is left aside; None for a prompt that is used."""
    if path.suffix == ".txt" and path.stem in stems:
        return None
    if path.suffix.lower() == ".txt" and path.stem in pictures:
        return f"{path.name} is ignored: the prompt of {path.stem} is named {Path(path.stem).stem}.txt"
    if path.suffix.lower() == ".txt":
        return f"{path.name} is ignored: there is no picture beside it"
    if path.is_dir():
        return f"{path.name}/ is ignored: folders below the folder of pictures are not read"
    if not path.exists():
        return f"{path.name} is ignored: it is a link to nothing"
    return f"{path.name} is ignored: {path.suffix or 'a name without suffix'} is no kind of picture read here"


def _what(folder: Path, names: list[str]) -> str:
    """What stands in a folder instead of pictures."""
    if not names:
        return "nothing"
    kinds = sorted({"folders" if (folder / n).is_dir() else Path(n).suffix or "no suffix" for n in names})
    return f"{len(names)} other {'name' if len(names) == 1 else 'names'} ({_list(kinds[:6])})"


def _list(words: Iterable[str]) -> str:
    return ", ".join(words)
