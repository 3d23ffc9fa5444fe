"""The only place that prints: results to stdout, all else to stderr, colour only on a terminal."""

from __future__ import annotations

import os
import re
import sys
from typing import TextIO

from dbrun.errors import DEFAULT_WIDTH, DbrunError, UsageError
from dbrun.secrets import redact_secrets

COLOUR_CODE = re.compile(r"\x1b\[\d*m")
CONTROL_CHARACTER = re.compile(r"\x1b\[\d*m|[\x00-\x08\x0b-\x1f\x7f-\x9f\ud800-\udfff\u202a-\u202e\u2066-\u2069]")
"""A colour code, or a character that a terminal would obey, that would reorder the line, or that cannot be encoded; tab
and line feed are text."""
EXCERPT = re.compile(r"(?:\x1b\[\d*m)* +\d* \| ")
"""The gutter of a line of an excerpt: `  12 | `."""
SPACE_BEFORE_UNIT = re.compile(r"(?<=\d) (?=(?:s|min|h|d|B|[KMGT]iB|px)\b)")
EAST_ASIAN = r"\u2e80-\ua4cf\uac00-\ud7a3\uf900-\ufaff\uff00-\uffef"
"""East Asian letters, between which a line may end."""
WORD_PATTERNS = (r"[^ ]+ *| +", rf"[{EAST_ASIAN}] *|[^ {EAST_ASIAN}]+ *| +")
"""The pieces that a line may end after: for text without East Asian letters, and for text with them."""
STYLE_CODES = {"bold": "1", "dim": "2", "red": "31", "green": "32", "yellow": "33", "cyan": "36"}
PAINTED = frozenset(f"\x1b[{code}m" for code in ("0", *STYLE_CODES.values()))
"""The escape sequences that `paint` writes."""


def is_interactive(stream: TextIO) -> bool:
    """Whether the stream is a terminal that can redraw a line."""
    return stream.isatty() and os.environ.get("TERM") != "dumb"


def takes_colour(stream: TextIO) -> bool:
    """Whether the stream is a terminal with colours, or FORCE_COLOR is set, as in CI; never where NO_COLOR is set."""
    if os.environ.get("NO_COLOR"):
        return False
    return is_interactive(stream) or bool(os.environ.get("FORCE_COLOR"))


def paint(text: str, style: str, stream: TextIO) -> str:
    """text in a style of STYLE_CODES if the stream takes colour, else unchanged."""
    if not takes_colour(stream):
        return text
    return f"\x1b[{STYLE_CODES[style]}m{text}\x1b[0m"


def escape_controls(text: str, stream: TextIO) -> str:
    """text with control characters written out, such as `\\u001b`; the colours of `paint` are kept."""
    # Recipes, file names and headers of other people's files hold any character, and a terminal obeys escape
    # sequences: it would hide text, retitle its window or worse. In JSON, `\\u001b` means the same.
    coloured = takes_colour(stream)

    def escape(match: re.Match[str]) -> str:
        if coloured and match[0] in PAINTED:
            return match[0]
        return f"\\u{ord(match[0][0]):04x}{match[0][1:]}"

    return CONTROL_CHARACTER.sub(escape, text)


def terminal_width(stream: TextIO) -> int:
    """The terminal's width in columns; 100 if the stream is none, or does not tell."""
    if not stream.isatty():
        return 100
    # COLUMNS wins, as in other programs: tests and recordings set it.
    try:
        return int(os.environ.get("COLUMNS", "")) or 100
    except ValueError:
        pass
    try:
        return os.get_terminal_size(stream.fileno()).columns or 100
    except (OSError, ValueError):
        return 100


def print_status(text: str, end: str = "\n", indent: int | None = None) -> None:
    """Print text for people to stderr, without secrets; on a terminal wrapped between words.

    indent: columns before each line after the first; by default two more than the first has.
    """
    text = escape_controls(redact_secrets(text), sys.stderr)
    if sys.stderr.isatty():
        text = "\n".join(_wrap_line(line, terminal_width(sys.stderr), indent) for line in text.split("\n"))
    print(text, file=sys.stderr, end=end, flush=True)


def print_warning(text: str) -> None:
    """Print a warning: the command continues, but may not do what was meant."""
    print_status(warning_text(text))


def warning_text(text: str) -> str:
    """text after "warning: ", in the colour of warnings."""
    return paint(f"warning: {text}", "yellow", sys.stderr)


def _wrap_line(line: str, width: int, indent: int | None) -> str:
    # A wrapped excerpt would part the carets from what they point at.
    if EXCERPT.match(line) or display_width(line) <= width:
        return line
    if indent is None:
        indent = len(line) - len(line.lstrip()) + 2
    first, *rest = wrap_text(line, width, width - indent)
    return "\n".join([first, *(" " * indent + part for part in rest)])


def display_width(text: str) -> int:
    """The terminal columns that a text takes: two for an East Asian character, none for a colour code."""
    plain = COLOUR_CODE.sub("", text)
    if plain.isascii():
        return len(plain)
    # Imported here: most texts need no tables of widths, and reading them takes 9 ms.
    from rich.cells import cell_len

    return cell_len(plain)


def wrap_text(text: str, first: int, more: int) -> list[str]:
    """A text in lines of at most `first` columns, then `more` columns each; a number stays with its unit.

    A word that is longer than a line stays whole, so that it can be copied.
    """
    lines, line, room = [], "", first
    has_east_asian = max(text, default="") >= "\u2e80"
    unbreakable = SPACE_BEFORE_UNIT.sub("\N{NO-BREAK SPACE}", text)
    for word in re.findall(WORD_PATTERNS[has_east_asian], unbreakable):
        if line.strip() and display_width((line + word).rstrip()) > room:
            lines.append(line.rstrip())
            line, room = "", more
        line += word
    return [part.replace("\N{NO-BREAK SPACE}", " ") for part in (*lines, line.rstrip())]


def truncate(text: str, room: int) -> str:
    """A text of at most room columns, with `…` at its end if it was cut. The text must have no colours."""
    if display_width(text) <= room:
        return text
    from rich.cells import set_cell_size

    shortened = set_cell_size(text, max(0, room - 1))
    return f"{shortened.rstrip()}…"


def print_result(text: str, end: str = "\n", stream: TextIO | None = None) -> None:
    """Print the data that the verb was asked for, without secrets. Never wrapped: programs read it.

    stream: where it goes, None for stdout.
    """
    stream = stream or sys.stdout
    print(escape_controls(redact_secrets(text), stream), end=end, flush=True, file=stream)


def ask(question: str, usual: str) -> str:
    """Print a question to stderr and return the answer of one line; usual: the answer of an empty line.

    Raises UsageError where the input has ended.
    """
    shown = f" [{usual}]" if usual else ""
    print_status(f"{question}{shown}: ", end="")
    line = sys.stdin.readline()
    if not line:
        print_status("")
        raise UsageError("the input ended before an answer", fix="name it on the command line; --help lists the words")
    return line.strip() or usual


def pluralize(number: int, noun: str, more: str = "s") -> str:
    """A number with its noun: 1 run, 2 runs, 10,000 pictures. more: the ending of the plural."""
    ending = "" if number == 1 else more
    return f"{number:,} {noun}{ending}"


def format_duration(seconds: float) -> str:
    """A duration for people: 0.4 s, 12 s, 3 min 05 s, 2 h 10 min."""
    if seconds < 10:
        return f"{seconds:.1f} s"
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02d} s"
    return f"{whole // 3600} h {whole % 3600 // 60:02d} min"


def format_age(then: float) -> str:
    """The age of a time in the largest unit that fits: 3 d, 2 h, 5 min, or "now". then: seconds since 1970."""
    import time

    seconds = time.time() - then
    units = (("d", 86400), ("h", 3600), ("min", 60))
    return next((f"{seconds // size:.0f} {unit}" for unit, size in units if seconds >= size), "now")


def format_ago(then: float) -> str:
    """The age of a time as words of a sentence: "2 h ago", "just now". then: seconds since 1970."""
    age = format_age(then)
    return "just now" if age == "now" else f"{age} ago"


def print_error(error: DbrunError) -> None:
    """Print an error to stderr: what was found, then after an arrow what to do."""
    width = terminal_width(sys.stderr) if sys.stderr.isatty() else DEFAULT_WIDTH
    first, *rest = error.render(width).split("\n")
    # Exit codes above 128 stand for a signal: who stopped the run knows that nothing is wrong.
    if error.exit_code > 128:
        head = paint(first, "yellow", sys.stderr)
    else:
        head = f"{paint('error:', 'red', sys.stderr)} {first}"
    print_status("\n".join([head, *map(_colour_line, rest)]))
    if error.fix:
        print_status(f"  {paint('→', 'cyan', sys.stderr)} {error.fix}", indent=4)


def _colour_line(line: str) -> str:
    """A line of an error with colours: the gutter of an excerpt dim, carets red, the arrow before a fix cyan."""
    gutter = EXCERPT.match(line)
    if gutter:
        content = line[gutter.end():]
        if "^" in content and not content.strip(" ^"):
            content = paint(content, "red", sys.stderr)
        return paint(gutter[0], "dim", sys.stderr) + content
    if line.startswith("  →"):
        return line.replace("  →", f"  {paint('→', 'cyan', sys.stderr)}", 1)
    return line
