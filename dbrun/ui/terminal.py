"""Where text goes: what a verb was asked for to stdout, all else to stderr; colour only on a terminal."""

from __future__ import annotations

import os
import re
import sys
from typing import TextIO

from dbrun.errors import DEFAULT_WIDTH, DbrunError
from dbrun.secrets import redact_secrets

COLOUR_CODE = re.compile(r"\x1b\[\d*m")
CONTROL_CHARACTER = re.compile(r"\x1b\[\d*m|[\x00-\x08\x0b-\x1f\x7f-\x9f\ud800-\udfff]")
"""A colour, or a character that a terminal obeys or that cannot be written; tab and line feed are text."""
EXCERPT = re.compile(r"(?:\x1b\[\d*m)* +\d* \| ")
SPACE_BEFORE_UNIT = re.compile(r"(?<=\d) (?=(?:s|min|h|d|B|[KMGT]iB|px)\b)")
EAST_ASIAN = r"\u2e80-\ua4cf\uac00-\ud7a3\uf900-\ufaff\uff00-\uffef"
"""East Asian letters, between which a line may end."""
WORD_PATTERNS = (r"[^ ]+ *| +", rf"[{EAST_ASIAN}] *|[^ {EAST_ASIAN}]+ *| +")
"""What a line is made of without such letters, and with them."""
STYLE_CODES = {"bold": "1", "dim": "2", "red": "31", "green": "32", "yellow": "33", "cyan": "36"}
PAINTED = frozenset(f"\x1b[{code}m" for code in ("0", *STYLE_CODES.values()))
"""What `paint` writes."""


def is_interactive(stream: TextIO) -> bool:
    """Whether a person watches this stream on a terminal that can redraw a line."""
    return stream.isatty() and os.environ.get("TERM") != "dumb"


def takes_colour(stream: TextIO) -> bool:
    """Whether the stream is a terminal that knows colours, and NO_COLOR is not set."""
    return is_interactive(stream) and not os.environ.get("NO_COLOR")


def paint(text: str, style: str, stream: TextIO) -> str:
    """text in a style, if the stream takes one."""
    if not takes_colour(stream):
        return text
    return f"\x1b[{STYLE_CODES[style]}m{text}\x1b[0m"


def escape_controls(text: str, stream: TextIO) -> str:
    """text with its control characters written out, such as `\\u001b`, but for the colours of `paint`.

    They come from recipes, file names and headers. JSON means the same with them written so.
    """
    coloured = takes_colour(stream)

    def written_out(found: re.Match[str]) -> str:
        if coloured and found[0] in PAINTED:
            return found[0]
        return f"\\u{ord(found[0][0]):04x}{found[0][1:]}"

    return CONTROL_CHARACTER.sub(written_out, text)


def terminal_width(stream: TextIO) -> int:
    """Columns to write in: the terminal's, or 100 where there is none."""
    if not stream.isatty():
        return 100
    try:
        return int(os.environ.get("COLUMNS", "")) or 100
    except ValueError:
        pass
    try:
        return os.get_terminal_size(stream.fileno()).columns or 100
    except (OSError, ValueError):
        return 100


def print_status(text: str, end: str = "\n", indent: int | None = None) -> None:
    """A line for people, on stderr; on a screen folded between words, by so many columns from the second line on."""
    text = escape_controls(redact_secrets(text), sys.stderr)
    if sys.stderr.isatty():
        text = "\n".join(_wrap_line(line, terminal_width(sys.stderr), indent) for line in text.split("\n"))
    print(text, file=sys.stderr, end=end, flush=True)


def print_warning(text: str) -> None:
    """What is done all the same, but may not be meant."""
    print_status(warning_text(text))


def warning_text(text: str) -> str:
    """The words of a warning, in its colour."""
    return paint(f"warning: {text}", "yellow", sys.stderr)


def _wrap_line(line: str, wide: int, indent: int | None) -> str:
    if EXCERPT.match(line) or display_width(line) <= wide:
        return line
    inner = len(line) - len(line.lstrip()) + 2 if indent is None else indent
    first, *more = wrap_text(line, wide, wide - inner)
    return "\n".join([first, *(" " * inner + part for part in more)])


def display_width(text: str) -> int:
    """Terminal columns of a text; East Asian characters take two, colours none."""
    plain = COLOUR_CODE.sub("", text)
    if plain.isascii():
        return len(plain)
    # not at the top: most of what is said needs no tables of widths, and reading them takes 9 ms
    from rich.cells import cell_len

    return cell_len(plain)


def wrap_text(text: str, first: int, more: int) -> list[str]:
    """A text in lines of at most so many columns, the first and each after; numbers stay with their units.

    A word that is longer than a line stays whole, so that it can be copied.
    """
    lines, line, room = [], "", first
    for word in re.findall(WORD_PATTERNS[max(text, default="") >= "\u2e80"],
                           SPACE_BEFORE_UNIT.sub("\N{NO-BREAK SPACE}", text)):
        if line.strip() and display_width((line + word).rstrip()) > room:
            lines.append(line.rstrip())
            line, room = "", more
        line += word
    return [part.replace("\N{NO-BREAK SPACE}", " ") for part in (*lines, line.rstrip())]


def truncate(text: str, room: int) -> str:
    """A text without colours, without its end where it does not fit into so many columns."""
    if display_width(text) <= room:
        return text
    from rich.cells import set_cell_size

    return f"{set_cell_size(text, max(0, room - 1)).rstrip()}…"


def print_result(text: str, end: str = "\n") -> None:
    """Data that the verb was asked for, on stdout."""
    print(escape_controls(redact_secrets(text), sys.stdout), end=end, flush=True)


def pluralize(number: int, noun: str, more: str = "s") -> str:
    """A number of things: 1 run, 2 runs, 10,000 pictures."""
    return f"{number:,} {noun}{'' if number == 1 else more}"


def format_duration(seconds: float) -> str:
    """A duration as people read it: 0.4 s, 12 s, 3 min 05 s, 2 h 10 min."""
    if seconds < 10:
        return f"{seconds:.1f} s"
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02d} s"
    return f"{whole // 3600} h {whole % 3600 // 60:02d} min"


def format_age(then: float) -> str:
    """How long ago a time is, in seconds of the system's clock: in the largest unit that fits, or "now"."""
    import time

    seconds = time.time() - then
    units = (("d", 86400), ("h", 3600), ("min", 60))
    return next((f"{seconds // size:.0f} {unit}" for unit, size in units if seconds >= size), "now")


def format_ago(then: float) -> str:
    """The same in a sentence."""
    return "just now" if (told := format_age(then)) == "now" else f"{told} ago"


def print_error(error: DbrunError) -> None:
    """An error as its reader needs it: what was found, then the way out."""
    first, *more = error.render(terminal_width(sys.stderr) if sys.stderr.isatty() else DEFAULT_WIDTH).split("\n")
    # who stopped it knows that nothing is wrong
    stopped = error.exit_code > 128
    head = paint(first, "yellow", sys.stderr) if stopped else f"{paint('error:', 'red', sys.stderr)} {first}"
    print_status("\n".join([head, *map(_colour_line, more)]))
    if error.fix:
        print_status(f"  {paint('→', 'cyan', sys.stderr)} {error.fix}", indent=4)


def _colour_line(line: str) -> str:
    """A line of an excerpt with what stands beside it dim, and the carets red; the way out with its arrow."""
    if gutter := EXCERPT.match(line):
        inside = line[gutter.end():]
        carets = not inside.strip(" ^") and "^" in inside
        return f"{paint(gutter[0], 'dim', sys.stderr)}{paint(inside, 'red', sys.stderr) if carets else inside}"
    return line.replace("  →", f"  {paint('→', 'cyan', sys.stderr)}", 1) if line.startswith("  →") else line
