"""Does the page of a run show what the run did, and nothing that it must not?"""

import json
import re
import shutil
import time
from html import unescape
from pathlib import Path

import pytest
from package_source import ROOT
from recorded_runs import PROMPTS, STAGES, record_run

from dbrun.errors import UsageError
from dbrun.store.runs import Run
from dbrun.store.store import Store
from dbrun.ui.report.compare_page import find_runs, render_comparison
from dbrun.ui.report.page import json_data
from dbrun.ui.report.pictures import MAX_PREVIEWS
from dbrun.ui.report.record import RunReader
from dbrun.ui.report.run_page import render_finished, render_run

SCRIPT = "<script>alert(1)</script>"
MAX_BYTES, MAX_SECONDS = 8 * 2**20, 2.0
"""A page of ten thousand steps and two hundred previews: its size, and processor time to make it."""


@pytest.fixture
def store(tmp_path: Path) -> Store:
    store = Store(tmp_path / "store")
    store.prepare()
    return store


def page(store: Store, **changes: object) -> str:
    return render_run(RunReader(store), record_run(store, **changes))  # type: ignore[arg-type]


def test_everything_of_a_run_is_on_its_page(store: Store) -> None:
    text = page(store)
    for section in ("before-after", "previews", "losses", "pictures-instance", "class-images", "stages", "files",
                    "recipe"):
        assert f'<section id="{section}"' in text and f'href="#{section}"' in text, section
    for word in (*PROMPTS, *STAGES, "blurred", "25 % cut off", "no earlier result", "pytorch_lora_weights.safetensors",
                 "import torch", "rank 4", "12 s", "1.0 MiB"):
        assert word in text, word
    previews = json.loads(re.findall(r'id="previews-data">(.*?)</script>', text)[0])
    assert previews["steps"] == [5, 10, 15, 20] and len(previews["urls"][0]) == len(PROMPTS)


def test_the_page_needs_no_other_file_and_no_network(store: Store) -> None:
    text = unescape(page(store))
    addresses = re.findall(r'(?:src|href|action)="([^"]*)"', text)
    assert addresses and all(address.startswith(("data:", "#")) for address in addresses)
    assert "default-src 'none'" in text and not re.search(r"https?://|url\(|@import", text)


def test_words_of_users_are_words(store: Store) -> None:
    """A caption, a file and a run with marks of HTML in their names; also in the data of the script."""
    text = page(store, caption=SCRIPT, file='"onerror="alert(1).png', prompts=(f"</script>{SCRIPT}", "b"))
    assert SCRIPT not in text and 'name="onerror' not in text
    assert "&lt;script&gt;alert(1)&lt;/script&gt;" in text and "&#34;onerror=&#34;alert(1).png" in text
    # one script, and data that end where they are meant to
    assert text.count("<script>") == 1
    assert text.count("</script>") == 1 + text.count('<script type="application/json"')
    assert json.loads(str(json_data([f"</script>{SCRIPT}<!--"]))) == [f"</script>{SCRIPT}<!--"]


def test_no_secret_is_shown(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    """Even a secret that HTML writes differently, in words that the run recorded before it was one."""
    secret = "s3cret&<value>"
    failed = {"event": "run_failed", "stage": "train", "message": f"at {secret}", "exit_code": 1,
              "fix": "see /home/me/private/log"}
    run = record_run(store, caption=f"a {secret}", prompts=(secret, "b"), end=failed)
    (run.folder / "log").write_text(f"Traceback {secret}")
    monkeypatch.setenv("SOME_API_KEY", secret)
    text = render_run(RunReader(store), run) + render_comparison(store, [run, run])
    for form in (secret, "s3cret&amp;&lt;value&gt;", "s3cret\\u0026"):
        assert form not in text
    assert "[hidden]" in text and "/home/me" not in text and "…/log" in text


def test_equal_records_give_equal_bytes(store: Store) -> None:
    """No clock and no order of a folder is on the page that is delivered."""
    run = record_run(store)
    first = render_finished(store, run.id)
    assert first == render_finished(store, run.id) == render_run(RunReader(store), run).encode()


@pytest.mark.slow
def test_a_long_run_is_small_and_quick(store: Store) -> None:
    run = record_run(store, steps=10000, every=10000, prompts=("a", "b", "c", "d"))
    sheet = (run.folder / "samples" / "step-00010000.png").read_bytes()
    for step in range(9801, 10000):
        (run.folder / "samples" / f"step-{step:08d}.png").write_bytes(sheet)
    began = time.process_time()
    text = render_run(RunReader(store), run)
    seconds = time.process_time() - began
    assert len(text.encode()) < MAX_BYTES and seconds < MAX_SECONDS
    steps = json.loads(re.findall(r'id="previews-data">(.*?)</script>', text)[0])["steps"]
    assert (steps[0], steps[-1]) == (9801, 10000) and len(steps) == MAX_PREVIEWS // 4


@pytest.mark.parametrize(("end", "word"), [
    ({"event": "run_failed", "message": "out of memory", "fix": "lower it", "exit_code": 1}, "It failed"),
    ({"event": "run_failed", "message": "Ctrl-C", "fix": None, "exit_code": 130}, "It was stopped"),
    ({"event": "note", "stage": "train", "text": "odd", "level": "warning"}, "It was ended from outside")])
def test_a_run_that_did_not_end_well_says_so(store: Store, end: dict[str, object], word: str) -> None:
    text = page(store, end=end, exported=False)
    assert word in text and 'id="losses"' in text and 'id="before-after"' not in text
    assert "data-live" not in text, "there is nothing to wait for"


def test_a_running_run_reads_itself_again(store: Store) -> None:
    """Its progress is there, and the page of a run that has ended does not reload."""
    run = record_run(store, end={"event": "time_left", "stage": "train", "seconds": 90}, exported=False)
    text = render_run(RunReader(store), run, state="running", live=5, written=1)
    assert 'data-live="5"' in text and "train: 20 of 20 steps" in text and "1 min 30 s" in text
    assert "data-live" not in render_run(RunReader(store), run, state="done", live=5)


def test_a_run_without_facts_has_a_page(store: Store) -> None:
    """As runs of earlier versions; and one whose files are damaged."""
    run = record_run(store)
    (run.folder / "report.json").unlink()
    assert 'id="losses"' in render_run(RunReader(store), run)
    for name in ("report.json", "recipe.json", "metrics.jsonl", "events.jsonl"):
        (run.folder / name).write_text('{"cut')
    (run.folder / "samples" / "step-00000005.png").write_bytes(b"no picture")
    assert "dog" in render_run(RunReader(store), run)


def test_previews_of_a_training_that_was_reused_are_there(store: Store) -> None:
    """They are in the folder of the run that trained; another training of the name has others."""
    first, other, later = [record_run(store, number=i, every=5 + i, prompts=(f"a {i}", "b")) for i in range(3)]
    for run, key in ((first, "1"), (other, "2"), (later, "1")):
        assert run.roots is not None
        run.roots.keys["train"] = key * 64
        (run.folder / "keys.json").write_text(json.dumps(run.roots.keys))
    shutil.rmtree(later.folder / "samples")
    report = RunReader(store).read(later)
    assert [preview.step for preview in report.previews] == [5, 10, 15, 20] and report.prompts == ("a 0", "b")


def publish_document(store: Store, run: Run, stage: str, name: str, document: dict[str, object]) -> None:
    """A result of a stage that is one JSON file."""
    key, out = "e" * 64, store.make_temp_folder()
    (out / name).write_text(json.dumps(document))
    store.publish(stage, key, {"stage": stage, "params": {}}, out, seconds=1.0, durable=False)
    assert run.roots is not None
    run.roots.keys[stage] = key


def publish_scores(store: Store, run: Run, scores: dict[str, object], expect: dict[str, str]) -> None:
    """A result of `evaluate`, and a recipe that expects something of it."""
    publish_document(store, run, "evaluate", "scores.json", {"format_version": 1, "scores": scores})
    facts = json.loads((run.folder / "report.json").read_text())
    facts["recipe"]["evaluate"] = {"expect": expect}
    (run.folder / "report.json").write_text(json.dumps(facts))


def test_scores_are_shown_with_what_is_expected_of_them(store: Store) -> None:
    run = record_run(store)
    base = {"mean": 0.8, "spread_prompts": None, "spread_seeds": 0.02}
    common = {"spread_prompts": 0.05, "spread_seeds": 0.0123, "source": "Ruiz et al."}
    scores = {
        "subject": {**common, "mean": 0.6, "higher_is_better": True, "label": "subject <i>fidelity</i>"},
        "diversity": {**common, "mean": 0.65, "higher_is_better": True, "label": "diversity", "base": base},
        "prior": {**common, "mean": 0.5, "higher_is_better": False, "label": "prior", "spread_seeds": None},
        "of another version": {"value": 1.0}}
    publish_scores(store, run, scores, {"subject": ">= 0.7", "diversity": ">= 0.8 of base", "prior": "<= 0.2"})
    found = RunReader(store).read(run).scores
    assert [(line.name, line.value, line.base, line.better, line.verdict) for line in found] == [
        ("subject", "0.600 ± 0.012", "", "higher", "missed by 0.1"),
        ("diversity", "0.650 ± 0.012", "0.800 ± 0.020", "higher", "met"),
        ("prior", "0.500", "", "lower", "missed by 0.3")]
    text = render_run(RunReader(store), run)
    assert '<section id="scores"' in text and 'href="#scores"' in text and "subject &lt;i&gt;fidelity" in text
    assert "&gt;= 0.8 of base" in text and 'class="failed" data-name="result">missed by 0.1<' in text


def test_candidates_are_shown_with_the_chosen_one(store: Store) -> None:
    run = record_run(store)
    rows = [{"step": 100, "mean": 0.7, "spread_seeds": 0.02}, {"step": 200, "mean": 0.8, "spread_seeds": None}]
    chosen = {"format_version": 1, "by": "subject", "keep": "best", "step": 200, "candidates": rows}
    publish_document(store, run, "select", "selection.json", chosen)
    text = render_run(RunReader(store), run)
    assert 'href="#candidates"' in text and "after step 200 is exported" in text
    assert '<th scope="row">100</th><td class="number">0.700 ± 0.020</td><td></td>' in text
    assert '<th scope="row">200</th><td class="number">0.800</td><td>yes</td>' in text
    # several scores: a column for each and what they are combined to, and the base that they are compared with
    rows = [{"step": 0, "scores": {"prompt": {"mean": 0.3}, "subject": {"mean": 0.1}}},
            {"step": 200, "combined": 0.75, "scores": {"prompt": {"mean": 0.25}, "subject": {"mean": 0.8}}}]
    publish_document(store, run, "select", "selection.json",
                     {**chosen, "by": ["prompt", "subject"], "candidates": rows})
    text = render_run(RunReader(store), run)
    assert "<code>prompt and subject</code>" in text and 'class="number">combined</th>' in text
    cells = [f'<td class="number">{value}</td>' for value in ("0.250", "0.800", "0.750")]
    assert f'<th scope="row">200</th>{"".join(cells)}<td>yes</td>' in text and "0 (base)" in text
    # where a step is named nothing is compared
    publish_document(store, run, "select", "selection.json", {**chosen, "candidates": []})
    assert 'id="candidates"' not in render_run(RunReader(store), run)


def test_runs_side_by_side(store: Store) -> None:
    """What differs, one plot for all, and the same prompt in a row; a base that they share is there once."""
    runs = [record_run(store, f"dog-{i}", number=i, rate=1e-3 * (i + 1)) for i in range(3)]
    text = render_comparison(store, find_runs(store, ["dog-*"]))
    assert "train.learning_rate" in text and "subject.instance_prompt" not in text
    assert text.count('scope="row">base</th>') == 1 and text.count("learning_rate 0.002: a photo of sks dog") == 1
    assert text.count('class="smoothed') == 3 * 2
    assert find_runs(store, ["dog-1", runs[1].id]) == [runs[1]]
    with pytest.raises(UsageError, match="no run 'cat'"):
        find_runs(store, ["cat"])


def test_templates_are_packaged() -> None:
    """Every file beside the code is in a pattern of the package data, which is what a wheel takes."""
    import tomllib

    patterns = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]["package-data"]["dbrun"]
    packaged = {path for pattern in patterns for path in (ROOT / "dbrun").glob(pattern)}
    templates = set((ROOT / "dbrun" / "ui" / "report" / "templates").iterdir())
    assert templates <= packaged and len(templates) >= 7
