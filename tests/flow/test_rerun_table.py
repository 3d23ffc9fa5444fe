"""Does each change rerun what it must, and nothing else?"""

import json
import os
import shutil

import pytest
from PIL import Image
from projects import STAGES, Project, picture

import dbrun
from dbrun.plan.planner import Status

ALL = STAGES
TRAINED = {"train", "export"}
ADAPTED = {"adapt", "train", "export"}
PRIORS = {"generate-priors", "preprocess", "train", "export"}
ENCODED = {"preprocess", "train", "export"}

TABLE = {
    "name=other": set(),
    "train.checkpoint_every=5": set(),
    "train.keep=7": set(),
    "export=[peft]": {"export"},
    "export=[peft, diffusers]": set(),
    "samples.seed=3": {"export"},
    "samples.steps=3": {"export"},
    "samples.prompts=[a cat]": {"export"},
    "train.steps=8": TRAINED,
    "train.learning_rate=2e-3": TRAINED,
    "train.batch_size=1": TRAINED,
    "train.accumulation=2": TRAINED,
    "launch={processes: 1}": set(),
    "launch.processes=2; train.accumulation=2": TRAINED,
    "train.max_grad_norm=0.5": TRAINED,
    "train.optimizer={type: adamw, weight_decay: 0.1}": TRAINED,
    "train.optimizer={type: adafactor}": TRAINED,
    "train.schedule={type: cosine}": TRAINED,
    "train.schedule={type: polynomial, power: 2.0}": TRAINED,
    "train.class_labels=none": set(),
    "train.steps=null; train.epochs=4": set(),
    "train.steps=null; train.epochs=6": TRAINED,
    "train.scale_lr=true": TRAINED,
    "train.ema={}": TRAINED,
    "train.precision=bf16": PRIORS,
    "train.deterministic=true": PRIORS,
    "train.deterministic=false": set(),
    "train.gradient_checkpointing=true": set(),
    "device=auto; base.offload=blocks": set(),
    "train.held_out={every: 2}": TRAINED,
    "train.candidates={every: 2}": TRAINED,
    "samples.every=2": set(),
    "trackers=[tensorboard, wandb]": set(),
    "prior.weight=0.5": TRAINED,
    "objective.prediction=v_prediction": TRAINED,
    "objective={prediction: v_prediction, zero_terminal_snr: true}": TRAINED,
    "objective.weighting={type: min_snr}": TRAINED,
    "objective.distance={type: huber}": TRAINED,
    "objective.timesteps={type: late}": TRAINED,
    "objective.noise_offset=0.1": TRAINED,
    "objective.input_perturbation=0.1": TRAINED,
    "objective.pyramid_noise={discount: 0.5}": TRAINED,
    "objective={weighting: {type: none}, noise_offset: 0.0}": set(),
    "adapt.denoiser.rank=3": ADAPTED,
    "adapt.denoiser.targets=attention": ADAPTED,
    "adapt.denoiser.learning_rate=2e-3": TRAINED,
    "adapt.denoiser.rslora=true": ADAPTED,
    "adapt.denoiser.dora=true": ADAPTED,
    "adapt.denoiser={type: lora, rank: 2, alpha: 4, targets: linear, start: pissa}": ADAPTED,
    "prior.count=4": PRIORS,
    "prior.steps=3": PRIORS,
    "prior.guidance=3.0": PRIORS,
    "prior.precision=bf16": PRIORS,
    "prior.precision=fp32": set(),
    "subject.class_prompt=a picture of a dog": PRIORS,
    "subject.class_prompt=[a photo of a dog]": set(),
    "subject.class_prompt=[a photo of a dog, a dog in the snow]": PRIORS,
    "subject.instance_prompt=a photo of xyz dog": ENCODED,
    "subject.captions={type: sidecar}": set(),
    "subject.captions={type: prompt}": set(),
    "subject.captions={type: filename, template: 'a {caption}'}": set(),
    "subject.captions={type: sidecar, dropout: 0.2}": ENCODED,
    "subject.trigger=sks dog": {"export"},
    "subject=null; subjects=[{images: pictures, instance_prompt: a photo of sks dog, class_prompt: a photo of a dog}]":
        set(),
    "subject=null; subjects=[{images: pictures, instance_prompt: sks dog, class_prompt: a photo of a dog}, "
    "{images: others, instance_prompt: zwx dog, class_prompt: a photo of a dog}]": ENCODED,
    "subject=null; subjects=[{images: pictures, instance_prompt: sks dog, class_prompt: a photo of a dog}, "
    "{images: others, instance_prompt: zwx car, class_prompt: a photo of a car}]": PRIORS,
    "prior={count: null, steps: null, guidance: null}; subject.class_images=others": ENCODED,
    "images.background=#000000": ENCODED,
    "images.resolution=16": PRIORS,
    "subject.repeats=1": set(),
    "subject.repeats=2": ENCODED,
    "images.buckets={}": ENCODED,
    "images.buckets={step: 16}": ENCODED,
    "images.crop=random": ENCODED,
    "images={crop: random, crops: 3}": ENCODED,
    "images.flip=true": ENCODED,
    "images={buckets: null, crop: center, flip: false, masks: none}": set(),
    "prior=null; subject.class_prompt=null": ENCODED,
    "prior={count: null, steps: null, guidance: null, target: base}": ENCODED,
    "prior={count: null, steps: null, guidance: null, images: others}": ENCODED,
    "adapt.text_encoder={type: lora, rank: 2}": {"adapt", "preprocess", "train", "export"},
    "adapt.text_encoder={type: lora, rank: 2, learning_rate: 1e-3, stop_at: 0.5}": {
        "adapt", "preprocess", "train", "export"},
    "subject.instance_prompt=a photo of <sks> dog; adapt.trigger={token: <sks>, initializer: d}; export=null": {
        "adapt", "preprocess", "train", "export"},
    "seed=1": {"adapt", "generate-priors", "preprocess", "train", "export"},
    "threads=2": {"generate-priors", "preprocess", "train", "export"},
}
"""Changes on the command line, parted by `; ` -> stages that are not cached after them."""


def pending(project: Project, *words: str) -> dict[str, dict[str, str]]:
    answer = json.loads(project.dbrun("plan", "tiny.yaml", "--json", *words).stdout)
    assert answer["format_version"] == 1
    return {s["name"]: s for s in answer["stages"] if s["status"] != "hit" and s["name"] in STAGES}


@pytest.mark.parametrize("change", TABLE)
def test_a_change_reruns_what_the_table_says(finished: Project, monkeypatch: pytest.MonkeyPatch, change: str) -> None:
    monkeypatch.chdir(finished.folder)
    # in this process: a command for each change takes four times as long, and plans by the same function
    planned = dbrun.plan("tiny.yaml", *change.split("; "), store=".dbrun")
    missing = {stage.name for stage in planned.stages if stage.status is not Status.HIT}
    assert missing & set(STAGES) == TABLE[change]


@pytest.mark.parametrize("adapter", ["{type: loha}", "{type: lokr, targets: all}", "{type: oft}"])
def test_another_type_of_adapter_reruns_the_same(finished: Project, adapter: str) -> None:
    assert set(pending(finished, f"adapt.denoiser={adapter}", "export=[peft]")) == ADAPTED


def test_masks_rerun_what_reads_them_and_their_weight_only_training(project: Project) -> None:
    pictures, mask = project.folder / "pictures", Image.new("L", (48, 40))
    mask.paste(255, (0, 0, 24, 40))
    mask.save(pictures / "0.mask.png")
    assert not pending(project), "nothing asks for masks"
    found = pending(project, "images.masks=files")
    assert set(found) == ENCODED and "images.masks none → files" in found["preprocess"]["reason"]
    project.dbrun("run", "tiny.yaml", "images.masks=files")
    assert not pending(project, "images.masks=files", "objective.unmasked_weight=null")
    weighed = pending(project, "images.masks=files", "objective.unmasked_weight=0.5")
    assert set(weighed) == TRAINED and "objective.unmasked_weight" in weighed["train"]["reason"]
    mask.paste(255, (0, 0, 48, 10))
    mask.save(pictures / "0.mask.png")
    assert pending(project, "images.masks=files")["preprocess"]["reason"] == "mask of 1 picture changed"


def test_the_plan_says_how_long_training_goes(finished: Project) -> None:
    notes = json.loads(finished.dbrun("plan", "tiny.yaml", "--json").stdout)["notes"]
    assert [note["text"] for note in notes if note["stage"] == "training"] == [
        "3 pictures ÷ 2 a batch = 1.5 steps an epoch; 6 steps = 4 epochs"]


def test_without_a_change_nothing_is_pending(finished: Project) -> None:
    assert not pending(finished)


def test_what_only_training_reads_leaves_the_adapter_alone(project: Project) -> None:
    both = "adapt.text_encoder={type: lora, rank: 2, learning_rate: 2e-3, stop_at: 4}"
    project.dbrun("run", "tiny.yaml", both)
    for other, why in (("learning_rate: 1e-3, stop_at: 4", "adapt.text_encoder.learning_rate 0.002 → 0.001"),
                       ("learning_rate: 2e-3, stop_at: 2", "adapt.text_encoder.stop_at 4 → 2"),
                       ("stop_at: 4", "adapt.text_encoder.learning_rate 0.002 → unset")):
        found = pending(project, both.replace("learning_rate: 2e-3, stop_at: 4", other))
        assert set(found) == TRAINED and why in found["train"]["reason"]


def test_an_adapter_to_start_from_counts_by_its_contents(project: Project) -> None:
    given = project.folder / "outputs" / "tiny" / "peft" / "denoiser"
    words = ("name=next", f"adapt.denoiser.init={given}")
    assert set(pending(project, *words)) == ADAPTED
    project.dbrun("run", "tiny.yaml", *words)
    for path in (project.folder / "outputs" / "next").rglob("*.*"):
        assert str(project.folder).encode() not in path.read_bytes(), path
    shutil.copytree(given, project.folder / "elsewhere")
    assert not pending(project, "name=next", "adapt.denoiser.init=elsewhere")
    weights = project.folder / "elsewhere" / "adapter_model.safetensors"
    content = bytearray(weights.read_bytes())
    content[-2] ^= 1
    weights.chmod(0o644)
    weights.write_bytes(content)
    found = pending(project, "name=next", "adapt.denoiser.init=elsewhere")
    assert set(found) == ADAPTED and "adapt.denoiser.init 'peft:" not in found["adapt"]["reason"]
    assert "adapt.denoiser.init peft:" in found["adapt"]["reason"]
    said = project.dbrun("run", "tiny.yaml", "adapt.denoiser.init=pictures", check=2).stderr
    assert "adapt.denoiser.init" in said and "a PEFT folder (adapter_config.json" in said


def test_one_new_picture_leaves_base_adapter_and_priors_alone(project: Project) -> None:
    picture(project.folder / "pictures" / "new.png", 222)
    assert set(pending(project)) == {"preprocess", "train", "export"}


def test_a_renamed_picture_changes_nothing(project: Project) -> None:
    (project.folder / "pictures" / "0.png").rename(project.folder / "pictures" / "zz.png")
    assert not pending(project)


def test_a_sidecar_prompt_is_seen(project: Project) -> None:
    (project.folder / "pictures" / "0.txt").write_text("a photo of sks dog in the snow")
    assert set(pending(project)) == {"preprocess", "train", "export"}


def test_how_captions_are_worded_and_varied_is_seen(project: Project) -> None:
    """The pictures' prompts come from text files, a table and names; each change asks `preprocess` anew."""
    folder = project.folder / "pictures"
    (folder / "0.txt").write_text("dog, grass, ball, sun")
    (folder / "metadata.jsonl").write_text(json.dumps({"file_name": "0.png", "text": "a dog", "de": "ein Hund"}))
    (folder / "1.png").rename(folder / "a_dog.png")
    asked = ["null", "{type: sidecar, template: 'a {caption}'}", "{type: sidecar, shuffle: {}}",
             "{type: sidecar, shuffle: {keep: 2}}", "{type: sidecar, shuffle: {variants: 3}}",
             "{type: sidecar, shuffle: {separator: ' '}}", "{type: metadata}", "{type: metadata, column: de}",
             "{type: filename}", "{type: prompt}"]
    found = [pending(project, f"subject.captions={captions}").get("preprocess", {}).get("key") for captions in asked]
    assert len(set(found)) == len(asked) and found[-1] is None, "one prompt for all is what has been run"
    worded = [pending(project, "subject.captions={type: sidecar, template: 'a {trigger} {caption}'}",
                      f"subject.trigger={trigger}")["preprocess"]["key"] for trigger in ("sks", "zwx")]
    assert worded[0] != worded[1]


def test_another_base_reruns_all(project: Project) -> None:
    config = project.folder / "base" / "scheduler" / "scheduler_config.json"
    config.write_text(config.read_text().replace("0.012", "0.011"))
    assert set(pending(project)) == ALL


def test_an_edit_that_keeps_size_mtime_and_inode_is_seen(project: Project) -> None:
    target = project.folder / "pictures" / "0.png"
    assert not pending(project)
    before = target.stat()
    picture(project.folder / "pictures" / "spare.tmp.png", 61)
    content = (project.folder / "pictures" / "spare.tmp.png").read_bytes()
    (project.folder / "pictures" / "spare.tmp.png").unlink()
    content = (content + b"\0" * before.st_size)[:before.st_size] if len(content) <= before.st_size else content
    with target.open("r+b") as file:
        file.write(content[:before.st_size])
    os.utime(target, ns=(before.st_atime_ns, before.st_mtime_ns))
    after = target.stat()
    assert (after.st_size, after.st_mtime_ns, after.st_ino) == (before.st_size, before.st_mtime_ns, before.st_ino)
    changed = project.dbrun("plan", "tiny.yaml", "--exit-code", check=None)
    assert changed.returncode in (2, 3), "either seen as another picture, or refused as a broken one"


def test_the_reason_names_the_old_and_the_new_value(finished: Project) -> None:
    reason = pending(finished, "train.learning_rate=2e-3")["train"]["reason"]
    assert "learning_rate" in reason and "0.01" in reason and "0.002" in reason and "→" in reason


def test_a_comment_and_reordered_keys_change_nothing(project: Project) -> None:
    recipe = project.folder / "tiny.yaml"
    lines = recipe.read_text().splitlines()
    recipe.write_text("\n".join(["# a word", lines[0], lines[-1], *lines[1:-1]]) + "\n")
    assert not pending(project)
