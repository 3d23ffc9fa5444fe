"""Is every verb found, in the file that the table names, and is no other file read for it?"""

import json
import subprocess
import sys
from importlib import import_module
from pathlib import Path

import pytest
from fork_server import run_dbrun

from dbrun.cli.app import app
from dbrun.cli.verbs import VERB_MODULES

FOLDER = Path(__file__).parents[2] / "dbrun" / "cli"


def test_the_table_names_every_file_of_verbs() -> None:
    assert sorted(VERB_MODULES) == sorted(p.stem for p in FOLDER.glob("*_verbs.py"))


@pytest.mark.parametrize("file", VERB_MODULES)
def test_a_file_holds_the_verbs_that_the_table_says(file: str) -> None:
    module = import_module(f"dbrun.cli.{file}")
    here = [c.name or c.callback.__name__ for c in app.registered_commands
            if c.callback.__module__ == module.__name__]
    assert tuple(here) == VERB_MODULES[file]


def loaded(*words: str) -> tuple[int, list[str]]:
    """The exit code of `dbrun WORDS`, and the files of verbs that it read."""
    code = (f"import sys, json\nsys.argv = ['dbrun', *{words!r}]\nfrom dbrun.cli import main\ncode = 0\n"
            "try: main()\nexcept SystemExit as e: code = e.code\n"
            "print(json.dumps([code, [m[10:] for m in sys.modules if m.endswith('_verbs')]]))")
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    code, files = json.loads(done.stdout.splitlines()[-1])
    return code, files


def test_a_verb_reads_its_own_file_only() -> None:
    assert loaded("schema", "--help") == (0, ["recipe_verbs"])


def test_help_goes_by_its_short_name_too() -> None:
    assert loaded("-h") == (0, list(VERB_MODULES))
    assert loaded("schema", "-h") == (0, ["recipe_verbs"])


def test_help_and_a_misspelt_verb_know_all_verbs() -> None:
    assert loaded("--help") == (0, list(VERB_MODULES))
    assert loaded("pln") == (2, list(VERB_MODULES))


@pytest.mark.parametrize(("words", "said"), [
    (["explain"], ["error: missing argument 'STAGE'", "  usage: dbrun explain [OPTIONS] STAGE [RECIPE] [KEY=VALUE]…",
                   "  → dbrun explain --help"]),
    (["run", "--forse"], ["error: no such option: --forse; did you mean --force, --from, --store?",
                          "  usage: dbrun run [OPTIONS] [RECIPE] [KEY=VALUE]…", "  → dbrun run --help"]),
    (["gc", "--keep"], ["error: option '--keep' requires an argument", "  → dbrun gc --help"]),
    (["gc", "--json=3"], ["error: option '--json' does not take a value", "  → dbrun gc --help"]),
    (["gc", "--keep", "x"], ["error: invalid value for '--keep': found 'x', allowed: a whole number",
                             "  usage: dbrun gc [OPTIONS]", "  → dbrun gc --help"]),
    (["gc", "--keep", "-3"], ["error: invalid value for '--keep': found '-3', allowed: at least 0",
                              "  usage: dbrun gc [OPTIONS]", "  → dbrun gc --help"]),
    (["graph", "--sweep", "seed=1,2"], ["error: no such option: --sweep",
                                        "  usage: dbrun graph [OPTIONS] [RECIPE] [KEY=VALUE]…",
                                        "  → dbrun graph --help"]),
    (["dog.yaml", "seed=3"], ["error: 'dog.yaml' is not a command", "  → dbrun run dog.yaml seed=3"]),
    (["train", "dog.yaml"], ["error: 'train' is not a command", "  → dbrun run dog.yaml"]),
    (["resume"], ["error: 'resume' is not a command", "  → dbrun run RECIPE; it goes on from the last checkpoint"]),
    (["help", "plan"], ["error: 'help' is not a command", "  → dbrun plan --help"]),
    (["verifi"], ["error: no such command 'verifi'; did you mean 'verify'?", "  → dbrun --help"])], ids=" ".join)
def test_a_wrong_command_line_is_told_of_as_every_other_error(words: list[str], said: list[str]) -> None:
    done = run_dbrun(words)
    assert done.returncode == 2 and done.stdout == "" and done.stderr.splitlines() == said


def test_without_words_there_is_help_and_what_a_verb_leaves_with_is_the_exit_code(tmp_path: Path) -> None:
    (tmp_path / "old.json").write_text("{}")
    for words, code in (([], 0), (["--version"], 0), (["schema", "--check", "old.json"], 3)):
        assert run_dbrun(words, cwd=tmp_path).returncode == code


def test_whoever_stops_a_verb_that_keeps_nothing_is_told(tmp_path: Path) -> None:
    code = ("import sys\nimport dbrun.cli.history\nfrom dbrun.cli import main\n"
            "def stop(*words, **more): raise KeyboardInterrupt\n"
            "dbrun.cli.history.show_runs = stop\nsys.argv = ['dbrun', 'runs']\nmain()")
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True)
    assert (done.returncode, done.stdout, done.stderr) == (130, "", "interrupted\n")


def test_on_windows_it_says_where_it_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    from dbrun.cli import main

    monkeypatch.setattr(sys, "platform", "win32")
    with pytest.raises(SystemExit, match="inside WSL"):
        main()
