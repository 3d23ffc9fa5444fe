"""Do plans and runs in Markdown hold the words of users as text, and no secret?"""

from __future__ import annotations

from pathlib import Path

import pytest
from fork_server import run_dbrun

from dbrun.ui.markdown import escape_markdown, escape_sentence


@pytest.mark.parametrize(("text", "shown"), [
    ("<img src=x>", r"\<img src=x\>"), ("a | b", r"a \| b"), ("`rm` *x* _y_", r"\`rm\` \*x\* \_y\_"),
    ("two\n\nlines", "two lines"), ("- item", r"\- item"), ("@octocat", "@&#8203;octocat"),
    ("see #12", r"see \#&#8203;12"), ("http://x.y", "http:&#8203;//x.y"), ("![p](u)", r"\!\[p\]\(u\)"),
    ("plain words, 1.5 GB; generate-priors", "plain words, 1.5 GB; generate-priors")])
def test_words_are_shown_as_they_are(text: str, shown: str) -> None:
    assert escape_markdown(text) == shown


@pytest.mark.parametrize(("text", "shown"), [
    ("`a --b_c` counts it *", r"`a --b_c` counts it \*"), ("say `x` or `y`", "say `x` or `y`"),
    ("one ` alone", r"one \` alone"), ("``two``", r"\`\`two\`\`"), ("`<b> @you`", r"\`\<b\> @&#8203;you\`")])
def test_code_in_a_sentence_of_dbrun_is_code(text: str, shown: str) -> None:
    assert escape_sentence(text) == shown


def test_secrets_are_hidden_before_their_characters_are_escaped(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MY_API_TOKEN", "se_cr*et-word")
    assert "cr" not in escape_markdown("it is se_cr*et-word").replace("secret", "")


def test_a_plan_and_the_runs_are_markdown(tmp_path: Path) -> None:
    plan = run_dbrun(["plan", "sks_dog", "--markdown", "subject.instance_prompt=a <b>x</b> @you |"], cwd=tmp_path)
    assert plan.returncode == 0, plan.stderr
    assert "| train | **RUN** |" in plan.stdout and "300 training steps" in plan.stdout
    assert "<b>" not in plan.stdout and "@you" not in plan.stdout
    runs = run_dbrun(["runs", "--markdown"], cwd=tmp_path)
    assert runs.stdout.startswith("### Runs")
    refused = run_dbrun(["plan", "sks_dog", "--markdown", "--json"], cwd=tmp_path)
    assert refused.returncode == 2 and "leave out --json" in refused.stderr + refused.stdout
