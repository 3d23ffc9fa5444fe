"""Does the whole path work as a user walks it: run, again, one stage, another name, a kill, an export to load?"""

import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from fork_server import start_dbrun
from PIL import Image
from projects import Project, cpu_and_heavy, lay_out
from representatives import cases
from safetensors.torch import load

PHOTOS = Path(__file__).parents[3] / "shared" / "data" / "dog6"


def statuses(project: Project, *words: str) -> dict[str, str]:
    answer = json.loads(project.dbrun("plan", "tiny.yaml", "--json", *words).stdout)
    return {s["name"]: s["status"] for s in answer["stages"]}


def test_a_run_leaves_what_the_readme_promises(finished: Project) -> None:
    home = finished.folder / "outputs" / "tiny"
    for name in ("pytorch_lora_weights.safetensors", "peft/denoiser/adapter_model.safetensors",
                 "peft/denoiser/adapter_config.json", "before_after.png", "samples/adapted/01.png", "loss.png",
                 "dbrun.json"):
        assert (home / name).stat().st_size > 0, name


def test_the_same_command_again_runs_nothing_and_touches_nothing(project: Project) -> None:
    before = {p: p.stat().st_mtime_ns for p in (project.folder / "outputs").rglob("*")}
    done = project.dbrun("run", "tiny.yaml")
    assert "nothing to do" in done.stderr and done.stdout.strip() == "outputs/tiny"
    assert {p: p.stat().st_mtime_ns for p in (project.folder / "outputs").rglob("*")} == before


def test_the_same_command_again_loads_no_heavy_package_and_is_quick(project: Project) -> None:
    cpu, heavy = cpu_and_heavy(project.folder, "run", "tiny.yaml")
    assert heavy == [] and cpu <= 4.1, f"{cpu} times two imports, {heavy}"


def test_removed_or_changed_outputs_come_back_without_a_stage(project: Project) -> None:
    wanted = project.exported()
    shutil.rmtree(project.folder / "outputs")
    assert "nothing to do" in project.dbrun("run", "tiny.yaml").stderr
    assert project.exported() == wanted
    damaged = project.folder / "outputs" / "tiny" / "pytorch_lora_weights.safetensors"
    damaged.chmod(0o644)
    damaged.write_bytes(b"nonsense")
    project.dbrun("run", "tiny.yaml")
    # what the user has changed is the user's: it steps aside
    aside = damaged.with_name("pytorch_lora_weights-kept.safetensors")
    assert aside.read_bytes() == b"nonsense"
    aside.unlink()
    assert project.exported() == wanted


def test_another_name_is_the_same_bytes_elsewhere(project: Project) -> None:
    """But for the name itself, which other programs show: in headers and in the title of the model card."""
    assert "nothing to do" in project.dbrun("run", "tiny.yaml", "name=other").stderr
    other, tiny = project.exported("other"), project.exported("tiny")
    assert other.keys() == tiny.keys()
    for name, content in tiny.items():
        if name.endswith(".safetensors"):
            assert load(other[name]).keys() == load(content).keys()
            assert all(torch.equal(tensor, load(other[name])[key]) for key, tensor in load(content).items())
        else:
            assert other[name] == content.replace(b"# tiny", b"# other"), name


def test_two_projects_with_equal_inputs_export_equal_bytes(finished: Project, fresh: Project) -> None:
    fresh.dbrun("run", "tiny.yaml")
    assert fresh.exported() == finished.exported()


def test_more_priors_make_only_the_missing_ones(project: Project) -> None:
    done = project.dbrun("stage", "generate-priors", "tiny.yaml", "prior.count=5", "--json")
    moves = [json.loads(line) for line in done.stdout.splitlines()]
    assert {m["stage"] for m in moves if m["event"] == "stage_started"} == {"generate-priors"}
    made = sorted((project.folder / ".dbrun" / "traces" / "generate-priors.item").rglob("*.json"))
    assert len(made) == 5


def test_a_stage_takes_the_recipe_last_run_here_and_says_so(project: Project) -> None:
    done = project.dbrun("stage", "adapt")
    assert "tiny.yaml" in done.stderr and "last run here" in done.stderr


def test_a_stage_without_a_recipe_takes_the_only_one_or_lists_them(fresh: Project) -> None:
    assert "tiny.yaml: the only recipe here" in fresh.dbrun("stage", "load").stderr
    shutil.rmtree(fresh.folder / ".dbrun")
    (fresh.folder / "recipes").mkdir()
    text = (fresh.folder / "tiny.yaml").read_text()
    text = text.replace("path: base", "path: ../base").replace("images: pictures", "images: ../pictures")
    (fresh.folder / "recipes" / "one.yaml").write_text(text)
    assert "only file in recipes/" in fresh.dbrun("stage", "load").stderr
    shutil.rmtree(fresh.folder / ".dbrun")
    (fresh.folder / "recipes" / "two.yaml").write_text(text)
    said = fresh.dbrun("stage", "load", check=2).stderr
    assert "recipes/one.yaml" in said and "recipes/two.yaml" in said


def test_only_refuses_where_something_above_is_missing(fresh: Project) -> None:
    said = fresh.dbrun("stage", "train", "tiny.yaml", "--only", check=None)
    assert said.returncode == 3 and "load" in said.stderr and "--only" in said.stderr
    assert not (fresh.folder / "outputs").exists()


def test_until_runs_nothing_after_and_force_runs_again(fresh: Project) -> None:
    fresh.dbrun("run", "tiny.yaml", "--until", "adapt")
    now = statuses(fresh)
    assert now["load"] == now["adapt"] == "hit" and now["train"] == "run"
    lines = fresh.dbrun("run", "tiny.yaml", "--until", "adapt", "--force", "adapt", "--json").stdout.splitlines()
    started = [m["stage"] for m in map(json.loads, lines) if m["event"] == "stage_started"]
    assert started == ["adapt"]


def test_plan_and_dry_run_write_no_stage_and_exit_code_tells(fresh: Project) -> None:
    fresh.dbrun("plan", "tiny.yaml", "--exit-code", check=3)
    assert "RUN" in fresh.dbrun("run", "tiny.yaml", "--dry-run").stdout
    assert not (fresh.folder / "outputs").exists()
    assert set(statuses(fresh).values()) == {"run"}


def test_a_sweep_runs_each_value_and_ends_in_a_table(project: Project) -> None:
    done = project.dbrun("run", "tiny.yaml", "--sweep", "samples.seed=0,1")
    head, first, second = done.stdout.splitlines()[-3:]
    assert head.split() == ["seed", "loss", "ran", "cached", "time", "exports"]
    assert first.split()[0::2][:2] == ["0", "0"] and first.endswith("outputs/tiny-samples.seed-0")
    assert second.split()[0::2][:2] == ["1", "1"] and second.endswith("outputs/tiny-samples.seed-1")
    assert (project.folder / "outputs/tiny-samples.seed-1/before_after.png").is_file()
    (project.folder / "outputs" / "taken").mkdir()
    (project.folder / "outputs" / "taken" / "mine").touch()
    broken = project.dbrun("run", "tiny.yaml", "--sweep", "name=taken,free", check=1)
    assert "outputs/free" in broken.stdout and "1 of 2 runs failed: taken" in broken.stderr


def test_runs_are_laid_side_by_side(project: Project) -> None:
    alone = project.dbrun("compare", "outputs/tiny", "-o", "one.png")
    assert alone.stdout.strip() == "one.png"
    project.dbrun("run", "tiny.yaml", "name=longer", "train.steps=8")
    project.dbrun("compare", "six steps=outputs/tiny", "outputs/longer", "-o", "two.png")
    one, two = (Image.open(project.folder / name) for name in ("one.png", "two.png"))
    assert two.height - one.height > 200
    for words, said in ((["outputs/tiny", "outputs/tiny"], "LABEL=FOLDER"), (["outputs/none"], "outputs/none"),
                        (["outputs/tiny", "-o", "nowhere/two.png"], "nowhere/two.png")):
        assert said in project.dbrun("compare", *words, check=2).stderr


def test_show_tells_where_an_adapter_comes_from_and_no_path_of_the_machine(finished: Project) -> None:
    for file in ("pytorch_lora_weights.safetensors", "peft/denoiser/adapter_model.safetensors"):
        facts = finished.dbrun("show", f"outputs/tiny/{file}", "--json").stdout
        assert "a photo of sks dog" in facts and str(finished.folder) not in facts
    of_file = finished.dbrun("show", "outputs/tiny/pytorch_lora_weights.safetensors").stdout
    assert "a photo of sks dog" in of_file
    assert finished.dbrun("show", "outputs/tiny").stdout == of_file == finished.dbrun("show", "outputs").stdout
    assert "holds no adapter" in finished.dbrun("show", "pictures", check=2).stderr
    for path in (finished.folder / "outputs").rglob("*.*"):
        assert str(finished.folder).encode() not in path.read_bytes(), path


def test_the_export_changes_a_pipeline_that_loads_it(finished: Project) -> None:
    import torch
    from diffusers import StableDiffusionPipeline

    pipe = StableDiffusionPipeline.from_pretrained(finished.folder / "base", torch_dtype=torch.float32)
    pipe.set_progress_bar_config(disable=True)
    unet = pipe.unet
    x, t, text = torch.ones(1, 4, 8, 8), torch.tensor([10]), torch.ones(1, 5, unet.config.cross_attention_dim)
    with torch.no_grad():
        before = unet(x, t, text).sample
        pipe.load_lora_weights(finished.folder / "outputs" / "tiny")
        after = pipe.unet(x, t, text).sample
    assert (before - after).abs().max() > 1e-4


def killed_then_finished(project: Project, wait: float, *words: str) -> None:
    """Start a run, kill it after `wait` seconds, and let the same command finish it."""
    child = start_dbrun(["run", "tiny.yaml", *words], project.folder, os.environ)
    time.sleep(wait)
    child.send_signal(signal.SIGKILL)
    child.wait()
    project.dbrun("run", "tiny.yaml", *words)


@pytest.mark.parametrize("part", cases([0.35, 0.6, 0.9], 1))
def test_a_killed_run_goes_on_and_ends_in_the_same_bytes(finished: Project, fresh: Project, part: float) -> None:
    started = time.monotonic()
    fresh.dbrun("run", "tiny.yaml", env={"DBRUN_STORE": str(fresh.folder / "warm")})
    whole = time.monotonic() - started
    shutil.rmtree(fresh.folder / "outputs")
    killed_then_finished(fresh, part * whole)
    assert fresh.exported() == finished.exported()


@pytest.mark.slow
def test_twenty_kills_at_random_moments_end_in_the_same_bytes(finished: Project, tmp_path: Path) -> None:
    draw = random.Random(0)
    for i in range(20):
        project = lay_out(tmp_path / str(i))
        killed_then_finished(project, draw.uniform(0.1, 5.0))
        assert project.exported() == finished.exported()


def test_ctrl_c_ends_with_130_and_says_how_to_go_on(finished: Project, fresh: Project) -> None:
    child = subprocess.Popen([sys.executable, "-m", "dbrun", "run", "tiny.yaml", "train.steps=100000", "--json"],
                             cwd=fresh.folder, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert child.stdout is not None
    for line in child.stdout:
        move = json.loads(line)
        if move["event"] == "progress" and move["stage"] == "train":
            break
    child.send_signal(signal.SIGINT)
    _, said = child.communicate(timeout=60)
    assert child.returncode == 130 and "same command" in said and "Traceback" not in said
    assert statuses(fresh, "train.steps=100000")["train"] == "resume"


@pytest.mark.skipif(not PHOTOS.is_dir(), reason="the photos are not here")
def test_real_photos_go_through(fresh: Project) -> None:
    done = fresh.dbrun("run", "tiny.yaml", "name=photos", f"subject.images={PHOTOS}", "train.steps=2")
    assert done.stdout.strip() == "outputs/photos"
    assert (fresh.folder / "outputs" / "photos" / "before_after.png").is_file()
