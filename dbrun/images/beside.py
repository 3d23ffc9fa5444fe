"""Files that belong to a picture by their name, such as dog1.txt and dog1.mask.png to dog1.jpg."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping
from pathlib import PurePosixPath

from dbrun.naming import file_name_key


class NamesOfFolder:
    """Names of one folder, found again whatever their case and Unicode form: IMG_1.TXT for img_1.txt."""

    def __init__(self, names: Iterable[str]) -> None:
        groups: dict[str, list[str]] = defaultdict(list)
        for name in names:
            groups[file_name_key(name)].append(name)
        self._groups: Mapping[str, list[str]] = groups

    def same_names(self, name: str) -> list[str]:
        """Names that differ from this one only in case or Unicode form; empty where there are none."""
        return self._groups.get(file_name_key(name), [])


def stem_of(picture: str) -> str:
    """Name of a picture without its suffix; picture: may lie in a sub-folder."""
    return PurePosixPath(picture).stem


def match_beside(stems: Iterable[str], names: Iterable[str], ending: str,
                 problems: list[str]) -> dict[str, str]:
    """Stem of each picture → the file named stem + ending; stems without such a file are left out.

    names: of the files. Where two files share a name but for its case, and not each has a picture of exactly its own
    name, nothing says which is meant: then that is added to problems.
    """
    stems = list(stems)
    folder = NamesOfFolder(names)
    own = {stem + ending for stem in stems}
    matched: dict[str, str] = {}
    unclear: dict[tuple[str, ...], None] = {}
    for stem in stems:
        found = folder.same_names(stem + ending)
        if len(found) == 1:
            matched[stem] = found[0]
        elif stem + ending in found and own.issuperset(found):
            matched[stem] = stem + ending
        elif found:
            unclear[tuple(found)] = None
    problems += [f"{' and '.join(files)} have names that differ only in case or Unicode form, so it is not clear which "
                 "one belongs to the picture" for files in unclear]
    return matched
