"""The work of the verb `new`: a few questions on a terminal, the starter recipe, and a look at its pictures."""

from __future__ import annotations

import os
import re
import sys
from dataclasses import dataclass, replace
from pathlib import Path

from dbrun.errors import UsageError
from dbrun.recipe.new import StarterRequest, check_name, starter_recipe
from dbrun.recipe.starter_bases import EMBEDDED, card_settings, find_starter_base, starter_bases
from dbrun.ui.terminal import ask, print_result, print_status, warning_text

USUAL_BASE, USUAL_CARD, USUAL_WORD = "sdxl", 12.0, "sks"
SIZE = re.compile(r"(?P<size>\d+(\.\d+)?)\s*(g(i?b)?)?", re.IGNORECASE)


@dataclass(frozen=True)
class GivenWords:
    """What the command line says of a starter recipe; None for what it leaves out. memory: such as 12GB."""

    images: Path | None = None
    base: str | None = None
    memory: str | None = None
    word: str | None = None
    class_word: str | None = None


def write_starter(name: str, given: GivenWords) -> None:
    """Write a commented starter recipe, never over another file, and say what is odd about its pictures.

    Raises UsageError, and RecipeError for a folder without pictures.
    """
    check_name(name)
    home = Path("recipes") if Path("recipes").is_dir() else Path()
    target = home / f"{name}.yaml"
    if target.exists():
        raise UsageError(f"{target} exists already", fix="choose another name")
    if sys.stdin.isatty() and sys.stderr.isatty():
        given = _ask_missing(given)
    text = starter_recipe(_request(name, given, home), target)
    # Mode "x" tests and creates in one step, so that not even a file made at this moment is overwritten.
    try:
        with target.open("x", encoding="utf-8") as file:
            file.write(text)
    except FileExistsError:
        raise UsageError(f"{target} exists already", fix="choose another name") from None
    except OSError as error:
        raise UsageError(f"{target} cannot be written: {error.strerror}") from None
    if given.images is not None:
        _report_pictures(target)
    print_status(f"read it, then: dbrun plan {target}, and: dbrun run {target}")
    print_result(str(target))


def parse_card(text: str) -> float:
    """Memory of a card in GB, from a text such as 12GB. Raises UsageError."""
    match = SIZE.fullmatch(text.strip())
    if match is None or not float(match["size"]):
        raise UsageError(f"found --memory {text!r}, allowed: the size of a card in GB", fix="write --memory 12GB")
    return float(match["size"])


def _request(name: str, given: GivenWords, home: Path) -> StarterRequest:
    """What the starter is for, with what was not given. home: folder that the recipe is written to."""
    base = given.base
    if base is None and given.images is None:
        base = EMBEDDED
    elif base is None:
        base = USUAL_BASE
        print_status(f"base: {base}, as none was named; there are {', '.join(starter_bases())}")
    needs_card = bool(find_starter_base(base).fits)
    if given.memory is not None:
        memory = parse_card(given.memory)
    else:
        memory = _card_of_this_machine(told=needs_card)
    request = StarterRequest(name, base, word=given.word or USUAL_WORD, memory=memory)
    if given.images is None:
        return replace(request, class_word=given.class_word or request.class_word)
    # Before anything is written: a folder without pictures is told by its name.
    from dbrun.images.discover import list_pictures

    pictures = len(list_pictures(given.images, "--images").pictures)
    # A path in a recipe starts at the recipe's folder.
    path = given.images
    if not path.is_absolute():
        path = Path(os.path.relpath(given.images, home))
    return replace(request, images=str(path), pictures=pictures, class_word=given.class_word)


def _card_of_this_machine(*, told: bool) -> float:
    """Memory in GB of the largest GPU here; USUAL_CARD where there is none, which is told."""
    from dbrun.plan.doctor import list_gpus

    sizes = []
    for _, _, _, total in list_gpus():
        match = re.match(r"(\d+) MiB", total)
        if match:
            # a card sold as 12 GB says 12,282 MiB, or a little less
            sizes.append(round(int(match[1]) / 1024))
    if sizes:
        return float(max(sizes))
    if told:
        print_status(f"card: {USUAL_CARD:g} GB is assumed, because no GPU was found here; name yours, such as "
                     "--memory 8GB")
    return USUAL_CARD


def _ask_missing(given: GivenWords) -> GivenWords:
    """The words with answers to questions for what is missing. Without pictures of one's own there are no more."""
    images = given.images
    if images is None and given.base in (None, EMBEDDED):
        answer = ask("Your pictures, a folder (Enter: try it with those of a drawn dog)", "")
        images = Path(answer).expanduser() if answer else None
    if images is None and given.base is None:
        return given
    base = given.base
    if base is None:
        for name, one in starter_bases().items():
            card = f", from {one.smallest_card} GB" if one.fits else ""
            print_status(f"  {name:<12} {one.summary}{card}")
        base = ask("Base", USUAL_BASE)
    memory = given.memory
    if memory is None and find_starter_base(base).fits:
        memory = ask("Memory of your graphics card", f"{_card_of_this_machine(told=False):g}GB")
        # the next question would be in vain
        card_settings(base, parse_card(memory))
    word = given.word or ask("A rare word that will mean your subject", USUAL_WORD)
    class_word = given.class_word
    if class_word is None and images is not None:
        class_word = ask("What it is one of, such as dog or woman (Enter: a style, or nothing)", "") or None
    return GivenWords(images, base, memory, word, class_word)


def _report_pictures(recipe: Path) -> None:
    """Print a line for each picture of a recipe that is odd, and for each warning about them."""
    from dbrun.api.request import RecipeRequest
    from dbrun.cli.run import read_request
    from dbrun.resolve.picture_report import picture_rows

    loaded, resolved, store = read_request(RecipeRequest(recipe))
    store.prepare()
    for note in resolved.notes:
        if note.level == "warning":
            print_status(warning_text(note.text))
    rows = picture_rows(loaded.recipe, resolved, store)
    odd = [row for row in rows if row.odd]
    for row in odd:
        print_status(f"{row.name}: {'; '.join(row.odd)}")
    found = f"{len(odd)} of {len(rows)} pictures have problems" if odd else f"{len(rows)} pictures, no problems"
    print_status(f"{found}; dbrun plan {recipe} --pictures -o sheet.png draws each")
