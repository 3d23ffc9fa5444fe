"""Training that takes hours on a CPU is told before it starts, and cores that stay idle meanwhile."""

from pathlib import Path

import pytest
from PIL import Image

from dbrun.plan import device
from dbrun.plan import machine_advice as advice
from dbrun.plan.estimate import Estimate
from dbrun.plan.planner import ALL_STAGES, Plan, Scope, StagePlan, Status, make_scope
from dbrun.plan.reasons import SimpleReason
from dbrun.recipe.load import load_recipe
from dbrun.resolve.sources import resolve_sources
from dbrun.store.store import Store

RECIPE = """\
schema: dbrun/v1
name: x
base: {path: owner/name, revision: aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa}
subject: {images: photos, instance_prompt: a photo of sks dog}
adapt: {denoiser: {type: lora}}
train: {steps: 800}
device: cpu
"""


def scope_of(home: Path, *overrides: str) -> Scope:
    (home / "photos").mkdir(exist_ok=True)
    Image.new("RGB", (40, 30), "red").save(home / "photos" / "0.png")
    (home / "r.yaml").write_text(RECIPE)
    loaded, store = load_recipe(home / "r.yaml", overrides), Store(home / "store")
    return make_scope(loaded.recipe, resolve_sources(loaded, store), store, ALL_STAGES, None)


def told(home: Path, *overrides: str, status: Status = Status.RUN, known: float | None = None) -> list[str]:
    scope = scope_of(home, *overrides)
    plan = Plan((StagePlan("train", status, SimpleReason.NO_EARLIER_RESULT),))
    estimates = {} if known is None else {"train": Estimate(known, None, None)}
    return [note.text for note in advice.machine_advice(scope, plan, estimates)]


def test_hours_on_a_cpu_are_told_with_idle_cores(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(advice, "available_cores", lambda: 8)
    slow, idle = told(tmp_path)
    assert "on a CPU this takes about 6 hours or more" in slow and "GPU" in slow
    assert "1 of this machine's 8 cores" in idle and "`threads=8`" in idle
    assert told(tmp_path, "threads=8", "train.steps=2000") == []
    assert "`threads: 3` uses 6 of this machine's 8 cores: `threads=4`" in told(
        tmp_path, "threads=3", "train={steps: 800, accumulation: 2}", "launch.processes=2")[-1]
    assert "4 days" in told(tmp_path, "train={steps: 3000, batch_size: 4}")[0]
    assert told(tmp_path, status=Status.HIT) == []
    assert told(tmp_path, "base={path: embedded, revision: null}", "images.resolution=64") == []
    assert told(tmp_path, known=20.0) == [] and told(tmp_path, known=900.0) == [idle]
    monkeypatch.setattr(advice, "available_cores", lambda: 1)
    assert told(tmp_path) == [slow]


def test_auto_threads_are_told_and_keyed_as_their_number(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(device, "available_cores", lambda: 3)
    monkeypatch.setattr(advice, "available_cores", lambda: 3)
    assert told(tmp_path, "threads=auto", "train.steps=1") == [
        "`auto` is 3 on this machine; with another number of cores every stage runs again"]
    keys = [scope_of(tmp_path, f"threads={threads}").stage_key("preprocess", {"load": "0" * 64}).key
            for threads in ("auto", "3", "2")]
    assert keys[0] == keys[1] != keys[2]


def test_bf16_on_a_cpu_that_emulates_it_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    small = ("base={path: embedded, revision: null}", "images.resolution=64")
    cpu_info = tmp_path / "cpuinfo"
    monkeypatch.setattr(device, "CPU_INFO", cpu_info)
    for flags, is_slow in (("fpu avx avx2", True), ("avx2 avx512f avx512bw avx512_bf16", False)):
        cpu_info.write_text(f"processor\t: 0\nflags\t\t: {flags}\n\nprocessor\t: 1\nflags\t\t: {flags}\n")
        found = told(tmp_path, *small, "train.precision=bf16")
        assert [text.endswith("write `train.precision: fp32`") for text in found] == [True] * is_slow
        assert told(tmp_path, *small, "train.precision=fp32") == []
        assert told(tmp_path, *small, "train.precision=bf16", status=Status.HIT) == []
        # the stage that draws them is not in the plan
        assert told(tmp_path, *small, "subject.class_prompt=a dog", "prior={count: 2, precision: bf16}") == []
    # what other processors and systems tell
    cpu_info.write_text("processor\t: 0\nFeatures\t: fp asimd bf16\n")
    assert told(tmp_path, *small, "train.precision=bf16") == []
    cpu_info.unlink()
    assert told(tmp_path, *small, "train.precision=bf16") == []


def test_offload_without_a_gpu_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    words = ("device=auto", "base.offload=blocks", "train.steps=1")
    monkeypatch.setattr(device, "why_unavailable", lambda device: None if device == "cpu" else "none here")
    assert "`base.offload` does nothing here: this runs on cpu" in told(tmp_path, *words)[0]
    assert told(tmp_path, *words, status=Status.HIT) == []
