"""Does the caret stand where the problem is, in every kind of line?"""

from __future__ import annotations

from pathlib import Path

import pytest

from dbrun.recipe.text.spans import InvalidRecipe, Problem, Span, display_path


def excerpt(text: str, column: int, length: int) -> tuple[str, str]:
    line, caret = Span(Path("a.yaml"), 7, column, length, text).excerpt().splitlines()
    return line[9:], caret[9:]


def test_the_caret_spans_the_word() -> None:
    assert excerpt("ab: cd", 5, 2) == ("ab: cd", "    ^^")


def test_a_long_line_is_cut_around_the_place() -> None:
    line, caret = excerpt("x" * 300 + "HERE" + "y" * 300, 301, 4)
    assert line[caret.index("^"):caret.rindex("^") + 1] == "HERE"
    assert len(line) == 80 - 9


def test_a_long_value_keeps_its_key_in_sight() -> None:
    line, caret = excerpt("name: " + "x" * 300, 7, 300)
    assert line.startswith("name: x") and caret.startswith("      ^") and len(caret) == len(line) == 80 - 9


def test_wide_characters_and_tabs_keep_the_caret_below() -> None:
    assert excerpt("犬: x", 4, 1) == ("犬: x", "    ^")
    assert excerpt("\ta: x", 5, 1) == (" a: x", "    ^")


WIDE = ["plain words", "犬の写真", "🐶 und 🐱", "e\u0301a\u0308", "❤\ufe0f dog", "한국", "\u1112\u1161\u11ab", "ＡＢ",
        "a\tb", "日本語" * 40, "x" * 300, "🐕" * 90, "é" * 200]


@pytest.mark.parametrize("width", [30, 80, 160])
@pytest.mark.parametrize("before", WIDE, ids=range(len(WIDE)))
@pytest.mark.parametrize("after", ["", "犬" * 100, "y" * 100], ids=["at the end", "wide after", "narrow after"])
def test_the_caret_is_below_the_place_at_every_width(before: str, after: str, width: int) -> None:
    """wcwidth counts columns as terminals do; the excerpt fits, and the caret begins below the value."""
    from rich.cells import cell_len

    for value in ("16", "犬", "🐶 dog"):
        place = Span(Path("a.yaml"), 7, len(before) + 1, len(value), before + value + after)
        line, caret = place.excerpt(width).splitlines()
        assert cell_len(line) <= width and cell_len(caret) <= width
        column = len(caret) - len(caret.lstrip(" |"))
        start = next(n for n in range(len(line) + 1) if cell_len(line[:n]) == column and line[n:].startswith(value))
        assert cell_len(line[:start]) == column and caret.count("^") == cell_len(value)


def test_terminal_control_characters_are_not_printed() -> None:
    assert "\x1b" not in excerpt("a: \x1b[31m", 4, 1)[0]


def test_problems_are_told_once_and_kept_as_data() -> None:
    place = Span(Path("a.yaml"), 1, 2, 3, "abcdef")
    problem = Problem(place, "a.b", "found x", "write y")
    error = InvalidRecipe([problem, problem, Problem(None, "", "no such file")])
    assert len(error.problems) == 2
    assert str(error).splitlines() == ["a.yaml:1:2 a.b: found x", "     1 | abcdef", "       |  ^^^", "  → write y",
                                       "no such file"]


def test_problems_are_told_from_the_first_line_to_the_last_and_then_the_command_line() -> None:
    def at(line: int, column: int, file: Path | None = Path("a.yaml")) -> Problem:
        return Problem(Span(file, line, column, 1, "text"), f"{line}.{column}", "found x")

    problems = [at(12, 1), at(9, 4), at(1, 9, None), at(9, 3), at(1, 2, None)]
    assert [one.key for one in InvalidRecipe(problems).problems] == ["9.3", "9.4", "12.1", "1.9", "1.2"]


def test_paths_are_shown_from_the_current_folder() -> None:
    assert display_path(Path.cwd() / "a" / "b.yaml") == "a/b.yaml"
    assert display_path(Path("/nowhere/b.yaml")) == "/nowhere/b.yaml"
