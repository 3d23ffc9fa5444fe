"""Does a sweep divide its values, name its runs, and count shared work once?"""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from PIL import Image

from dbrun.api.request import RecipeRequest
from dbrun.api.sweep_axes import split_values
from dbrun.cli import sweep_sheet
from dbrun.cli.sweep import MAX_RUNS, SweepRun, plan_runs, run_sweep, show_sweep
from dbrun.cli.sweep_sheet import write_sweep_sheet
from dbrun.errors import DbrunError, StageFailed, UsageError
from dbrun.images.samples import SampleSettings, write_samples
from dbrun.plan.estimate import stage_workload
from dbrun.plan.selection import Selection
from dbrun.recipe.new import StarterRequest, starter_recipe
from dbrun.recipe.text.spans import InvalidRecipe
from dbrun.ui.sweep import report_command, results_table
from dbrun.ui.terminal import print_status


@pytest.fixture
def dog(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> RecipeRequest:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("DBRUN_STORE", raising=False)
    # no previews, which would need 50 steps, and formats about which there is one note
    text = starter_recipe(StarterRequest("dog")).replace("every: 50, ", "").replace("kohya]", "peft]")
    Path("dog.yaml").write_text(text)
    return RecipeRequest(Path("dog.yaml"))


@pytest.mark.parametrize(("text", "values"), [
    ("1e-4,2e-4", ["1e-4", "2e-4"]), ("a", ["a"]), ("[a, b],[c]", ["[a, b]", "[c]"]), ("'a,b',c", ["'a,b'", "c"]),
    ("{type: lora, rank: 4},{type: loha, rank: 2}", ["{type: lora, rank: 4}", "{type: loha, rank: 2}"]),
    ("a,,b", ["a", "", "b"]), ("", [""]),
])
def test_values_lie_between_commas_outside_of_brackets_and_quotes(text: str, values: list[str]) -> None:
    assert split_values(text) == values


def test_a_grid_counts_what_its_runs_share_once(dog: RecipeRequest, capsys: pytest.CaptureFixture[str]) -> None:
    runs = plan_runs(dog, ["train.steps=30,60", "adapt.denoiser.rank=4,8"], Selection())
    assert [run.name for run in runs] == [
        f"dog-train.steps-{steps}-adapt.denoiser.rank-{rank}" for steps in (30, 60) for rank in (4, 8)]
    assert show_sweep(runs, as_json=True)
    found = json.loads(capsys.readouterr().out)
    times = {name: sorted(len(s["runs"]) for s in found["stages"] if s["name"] == name)
             for name in ("load", "generate-priors", "preprocess", "adapt", "train", "export")}
    assert times == {"load": [4], "generate-priors": [4], "preprocess": [4], "adapt": [2, 2],
                     "train": [1, 1, 1, 1], "export": [1, 1, 1, 1]}
    assert [run["values"] for run in found["runs"]][1] == {"train.steps": "30", "adapt.denoiser.rank": "8"}
    show_sweep(runs, as_json=False)
    text = capsys.readouterr().out
    assert "generate-priors  RUN      once for 4 runs" in text and "rank=4 (once for 2 runs)" in text
    unshared = sum(len(stage["runs"]) for stage in found["stages"])
    assert text.splitlines()[-1] == f"4 runs: {len(found['stages'])} stages to run instead of {unshared}"


def test_the_plan_of_a_sweep_tells_notes_and_estimates(dog: RecipeRequest, capsys: pytest.CaptureFixture[str]) -> None:
    runs = plan_runs(dog, ["train.batch_size=5,10", "adapt.denoiser.rank=4,8"], Selection())
    scope = runs[0].scope_and_plan[0]
    question = scope.stage_key("load", {})
    out = scope.store.make_temp_folder()
    (out / "base.json").write_text("{}")
    scope.store.publish("load", question.key, question.document, out, seconds=3.0, memory=1 << 20,
                        amounts=stage_workload(scope, "load", scope.resolved.sources.base.folder))
    runs = plan_runs(dog, ["train.batch_size=5,10", "adapt.denoiser.rank=4,8"], Selection(force=("load",)))
    show_sweep(runs, as_json=True)
    found = json.loads(capsys.readouterr().out)
    assert found["estimates"] == [{"stage": "load", "runs": [run.name for run in runs], "seconds": 3.0,
                                   "memory": 1 << 20, "disk": 2, "startup": None}]
    assert [(note["stage"], note["text"][:26], note["runs"]) for note in found["notes"]] == [
        ("training", "5 pictures ÷ 5 a batch = 1", [runs[0].name, runs[1].name]),
        ("export", "diffusers: ComfyUI and For", [run.name for run in runs]),
        ("training", "5 pictures ÷ 10 a batch = ", [runs[2].name, runs[3].name])]
    show_sweep(runs, as_json=False)
    said = capsys.readouterr()
    assert "load             RUN      ~3.0 s  once for 4 runs" in said.out
    assert ("at least about 3.0 s, up to about 1.0 MiB of memory, at least 2 B of disk for results, going by earlier "
            "runs;") in said.out
    assert said.err.splitlines()[0].endswith("(batch_size=5)")


def test_two_sweeps_share_no_folder_by_accident_and_names_stay_names(dog: RecipeRequest) -> None:
    def names(*sweeps: str) -> list[str]:
        return [run.name for run in plan_runs(dog, sweeps, Selection())]

    assert names("train.steps=4") == ["dog-train.steps-4"]
    assert names("adapt.denoiser.alpha=4") == ["dog-adapt.denoiser.alpha-4"]
    assert names("name=a,b") == ["a", "b"]
    with pytest.raises(UsageError, match="two runs of the sweep have the same name"):
        names("name=a", "seed=1,2")
    long = [f"a photo of a dog number {i} that is far too long to be a part of a name" for i in range(3)]
    every = [*names("subject.class_prompt=a dog,a_dog"), *names(f"subject.class_prompt={long[0]},{long[1]}"),
             *names(f"subject.class_prompt={long[2]}"), *names("adapt.denoiser.targets=[to_k],[to_q]")]
    assert len(set(every)) == len(every) == 7 and max(map(len, every)) == 64
    assert all(name.startswith("dog-subject.class_prompt-a_") for name in every[:5])
    assert names(f"subject.class_prompt={long[1]}") == [every[3]], "the same values give the same folder"


def test_all_wrong_values_are_told_at_once_and_each_once(dog: RecipeRequest) -> None:
    with pytest.raises(InvalidRecipe) as caught:
        plan_runs(dog, ["train.steps=1,x,-3", "adapt.denoiser.rank=0,4", "images.resolution=64,63"], Selection())
    assert [problem.message.partition(",")[0] for problem in caught.value.problems] == [
        "found '0'", "found 63", "found 'x'", "found '-3'"]


def test_what_is_wrong_with_a_swept_key_itself_is_told_once(dog: RecipeRequest) -> None:
    for sweep in ("train.stepz=1,2,x", "profile=ci,gpu", "extends=a,b"):
        with pytest.raises(InvalidRecipe) as caught:
            plan_runs(dog, [sweep, "seed=1,2"], Selection())
        assert [problem.span.text for problem in caught.value.problems if problem.span] == [sweep]
    with pytest.raises(InvalidRecipe, match=r"a profile is named by an option(.|\n)*→ --profile NAME"):
        plan_runs(dog, ["profile=ci,gpu"], Selection())


@pytest.mark.parametrize(("sweeps", "message"), [
    (["train.steps"], "a sweep is written key=value,value"), (["=1,2"], "a sweep is written"),
    (["train.steps=1,,2"], "a sweep is written"), (["seed=1,2", "seed=3"], "found two sweeps of seed"),
    (["train.stepz=1,2"], "unknown key"), (["train.steps=1,x"], "found 'x'"),
    ([f"seed={','.join(map(str, range(MAX_RUNS + 1)))}"], f"at most {MAX_RUNS}"),
])
def test_a_wrong_sweep_is_told_before_anything_runs(dog: RecipeRequest, sweeps: list[str], message: str) -> None:
    with pytest.raises(DbrunError, match=message):
        plan_runs(dog, sweeps, Selection())


def test_results_are_told_in_a_table() -> None:
    good = {"name": "a", "values": {"train.steps": "3"}, "failed": None, "ran": 2, "cached": 4, "seconds": 1.5,
            "loss": 0.25, "outputs": "outputs/a"}
    bad = {"name": "b", "values": {"train.steps": "9"}, "failed": "train failed\nat step 3"}
    head, first, second = results_table([good, bad]).splitlines()
    assert head.split() == ["steps", "loss", "ran", "cached", "time", "exports"]
    assert first.split() == ["3", "0.25", "2", "4", "1.5", "s", "outputs/a"]
    assert second.startswith("9") and second.endswith("failed: train failed")


def test_a_free_line_stands_before_each_run_and_what_failed_is_named(
        dog: RecipeRequest, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    def failed(run: SweepRun, selection: Selection, as_json: bool, outputs: Path) -> tuple[None, str]:
        print_status(f"{run.name} runs")
        return None, "no"

    monkeypatch.setattr("dbrun.cli.sweep._run_one", failed)
    two = plan_runs(dog, ["adapt.denoiser.rank=4,8"], Selection())
    with pytest.raises(StageFailed, match="2 of 2 runs failed"):
        run_sweep(two, Selection(), as_json=False)
    said, _, _ = capsys.readouterr().err.partition("side by side:")
    assert said == f"\n{two[0].name} runs\n\n{two[1].name} runs\n\n"


def test_runs_are_laid_side_by_side_by_one_command() -> None:
    assert report_command(["dog-rank-4", "dog-rank-8"]) == "dbrun report dog-rank-4 dog-rank-8"
    assert report_command(["dog-rank-4", "dog-rank-8", "dog-steps-1", "dog-x"]) == "dbrun report 'dog-*'"


def test_the_sheet_has_a_row_for_each_run_and_replaces_only_its_own_file(
        tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    exports: dict[str, Path] = {}
    for rank in (4, 8, 16):
        folder = exports[f"rank={rank}"] = tmp_path / str(rank)
        pictures = {"base": [Image.new("RGB", (64, 64))], "adapted": [Image.new("RGB", (64, 64), (rank, 0, 0))]}
        write_samples(folder, SampleSettings(("a dog",), 0, 4, 2.0), pictures)
    sheet = tmp_path / "dog-sweep.png"
    write_sweep_sheet(exports, sheet)
    reds = {pixel[0] for _, pixel in Image.open(sheet).getcolors(2**20) if pixel[1:] == (0, 0)}
    assert reds == {0, 4, 8, 16} and f"sheet: {sheet}\n" == capsys.readouterr().err
    monkeypatch.setattr(sweep_sheet, "MAX_ROWS", 2)
    write_sweep_sheet(exports, sheet)
    assert "the first 2 of 3 runs" in capsys.readouterr().err
    mine = Image.new("RGB", (9, 9))
    mine.save(sheet)
    write_sweep_sheet(exports, sheet)
    assert "not written by a sweep" in capsys.readouterr().err and Image.open(sheet).size == (9, 9)
