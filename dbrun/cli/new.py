"""The work of the verb `new`: a few questions on a terminal, the starter recipe, and a look at its pictures."""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TypeVar

from dbrun.errors import RecipeError, UsageError
from dbrun.recipe.load import load_recipe
from dbrun.recipe.new import StarterRequest, check_name, starter_recipe
from dbrun.recipe.shipped import shipped_recipes
from dbrun.recipe.starter_bases import EMBEDDED, card_settings, find_starter_base, starter_bases
from dbrun.ui.terminal import ask, print_result, print_status, warning_text

USUAL_BASE, USUAL_CARD, USUAL_WORD = "sdxl", 12.0, "sks"
Answer = TypeVar("Answer")
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
    request = _request(name, given, home)
    check_words(request.word, request.class_word)
    text = starter_recipe(request, target)
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
    _print_needs(request.base)
    print_status(f"read it, then: dbrun plan {target}, and: dbrun run {target}")
    print_result(str(target))


def parse_card(text: str) -> float:
    """Memory of a card in GB, from a text such as 12GB. Raises UsageError."""
    match = SIZE.fullmatch(text.strip())
    if match is None or not float(match["size"]):
        raise UsageError(f"found --memory {text!r}, allowed: the size of a card in GB", fix="write --memory 12GB")
    return float(match["size"])


def check_words(word: str, class_word: str | None) -> None:
    """Raise UsageError where the rare word and the class are the same, so that nothing could be told apart."""
    if class_word is not None and word.strip().lower() == class_word.strip().lower():
        raise UsageError(f"found {word!r} as the rare word and as the class, allowed: two different words",
                         fix="write --word sks")


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
        images = _ask_until("Your pictures, a folder (Enter: try it with those of a drawn dog)", "", _read_folder)
    if images is None and given.base is None:
        return given
    base = given.base
    if base is None:
        for name, one in starter_bases().items():
            needs = f"; {one.needs}" if one.needs else ""
            print_status(f"  {name:<12} {one.summary}{needs}")
        base = _ask_until("Base", USUAL_BASE, _read_base)
    memory = given.memory
    if memory is None and find_starter_base(base).fits:
        usual = f"{_card_of_this_machine(told=False):g}GB"
        size = _ask_until("Memory of your graphics card", usual, parse_card)
        # the next question would be in vain
        card_settings(base, size)
        memory = f"{size:g}GB"
    word = given.word or ask("A rare word that will mean your subject (not its name, and no common word)", USUAL_WORD)
    class_word = given.class_word
    if class_word is None and images is not None:
        class_word = _ask_until("What it is one of, such as dog or woman (Enter: a style, or nothing)", "",
                                partial(_read_class, word))
    return GivenWords(images, base, memory, word, class_word)


def _ask_until(question: str, usual: str, read: Callable[[str], Answer]) -> Answer:
    """The answer to a question, as read makes it. One that read refuses is told, and the question asked again."""
    while True:
        answer = ask(question, usual)
        try:
            return read(answer)
        except (UsageError, RecipeError) as error:
            # without its fix, which names an option of the command line
            print_status(error.message)


def _read_folder(answer: str) -> Path | None:
    """A folder with pictures; None for an empty answer. Raises RecipeError for one without."""
    if not answer:
        return None
    from dbrun.images.discover import list_pictures

    folder = Path(answer).expanduser()
    list_pictures(folder, "--images")
    return folder


def _read_base(answer: str) -> str:
    """The word of a base. Raises UsageError."""
    find_starter_base(answer)
    return answer


def _read_class(word: str, answer: str) -> str | None:
    """What the subject of a rare word is one of; None for an empty answer. Raises UsageError for the word itself."""
    check_words(word, answer)
    return answer or None


def _print_needs(base: str) -> None:
    """Print what a run fetches for a base, and whether its licence is to be accepted before."""
    one = find_starter_base(base)
    if not one.download:
        return
    login = ""
    if one.gated:
        page = load_recipe(shipped_recipes()[one.recipe]).recipe.base.path
        login = f"; first accept its licence on https://huggingface.co/{page}, then: hf auth login"
    print_status(f"the base is a download of about {one.download} GB, once{login}")


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
