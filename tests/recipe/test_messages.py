"""Is each wrong recipe told with its place, what was found, what is allowed and the word that was meant?"""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from dbrun.models.base import family_names
from dbrun.recipe.load import load_recipe
from dbrun.recipe.text.spans import InvalidRecipe

SCHEDULES = "constant, linear, cosine, cosine_with_restarts or polynomial"
# (what stands in the good recipe, what replaces it) → the lines that must be told
WRONG = [
    ("steps: 300", "stpes: 300", ["r.yaml:13:3 train.stpes: unknown key; did you mean 'steps'?"]),
    ("subject:", "sujet:", ["r.yaml:4:1 sujet: unknown key; did you mean 'subject'?"]),
    ("type: sd, path", "type: sd, paht", ["r.yaml:3:1 base.path: missing",
                                      "r.yaml:3:18 base.paht: unknown key; did you mean 'path'?"]),
    ("rank: 16", "rnak: 16", ["r.yaml:11:26 adapt.denoiser.rnak: unknown key; did you mean 'rank'?"]),
    ("images: {resolution: 64}", "resolution: 64",
     ["r.yaml:9:1 resolution: unknown key here; did you mean 'images.resolution'?"]),
    ("images: {resolution: 64}", "learning_rate: 1e-4",
     ["did you mean 'train.learning_rate'?"]),
    ("images: {resolution: 64}", "lr: 1e-4", ["r.yaml:9:1 lr: unknown key; here it is called 'train.learning_rate'"]),
    ("images: {resolution: 64}", "rank: 4",
     ["did you mean 'adapt.denoiser.rank', 'adapt.text_encoder.rank' or 'adapt.text_encoder_2.rank'?"]),
    ("denoiser:", "unet:", ["adapt.unet: unknown key; here it is called 'adapt.denoiser'"]),
    ("  denoiser: {type: lora, rank: 16, targets: all}", "  text_encoder: null",
     ["adapt: found nothing that learns", "add `denoiser: {type: lora}`"]),
    ("  denoiser:", "  trigger: {token: sks, initializer: dog}\n  denoiser:",
     ["adapt.trigger.token: found 'sks', allowed: text such as '<sks>' (small letters, digits, '_' and '-' in < >)"]),
    ("  denoiser:", "  trigger: {token: <zwx>, initializer: dog}\n  denoiser:",
     ["subject.instance_prompt: found no <zwx> in it", "`a photo of <zwx> dog`",
      "export: found no format that carries `adapt.trigger`", "`export: [diffusers, peft, kohya, embedding]`"]),
    ("export: [diffusers, peft]", "export: [embedding]",
     ["export.0: found 'embedding', which carries a trigger, and the recipe has none"]),
    ("rank: 16", "lora_alpha: 16", ["here it is called 'adapt.denoiser.alpha'"]),
    ("schema: dbrun/v1", "schema: dbrun/v1\nschema_: dbrun/v1", ["schema_: unknown key"]),
    ("steps: 300", "qqq: 300", ["train.qqq: unknown key; allowed here: steps, learning_rate, batch_size"]),
    ("images: {resolution: 64}", "schedule: {type: linear}", ["did you mean 'train.schedule'?"]),
    ("steps: 300", "steps: many",
     ["r.yaml:13:10 train.steps: found 'many', allowed: a whole number from 1 to 10000000"]),
    ("steps: 300", "steps: 3.5", ["found '3.5', allowed: a whole number"]),
    ("steps: 300", "steps: 0", ["found '0', allowed: a whole number from 1 to"]),
    ("steps: 300", "steps: -5", ["found '-5', allowed: a whole number from 1 to"]),
    ("steps: 300", "steps: '300'", ['found "300" in quotes', "without quotes"]),
    ("steps: 300", "batch_size:", ["train.batch_size: found nothing, allowed: a whole number"]),
    ("steps: 300", "batch_size: null", ["train.batch_size: found 'null', allowed: a whole number"]),
    ("steps: 300", "steps: true", ["found 'true', allowed: a whole number"]),
    ("steps: 300", "steps: [300]", ["found a list, allowed: a whole number"]),
    ("steps: 300", "steps: {a: 1}", ["found a mapping, allowed: a whole number"]),
    ("steps: 300", "steps: 1_000", ["found '1_000', allowed: a whole number"]),
    ("steps: 300", f"steps: {'9' * 5000}", ["train.steps: found '99999", "allowed: a whole number from 1"]),
    ("1e-4", "0", ["r.yaml:14:18 train.learning_rate: found '0', allowed: a number above 0"]),
    ("1e-4", ".inf", ["found '.inf', allowed: a number"]),
    ("1e-4", "nan", ["found 'nan', allowed: a number"]),
    ("1e-4", "1e999", ["found '1e999', allowed: a number"]),
    ("1e-4", "fast", ["found 'fast', allowed: a number above 0"]),
    ("name: dog", "name: ../dog", ["r.yaml:2:7 name: found '../dog', allowed: text such as 'sks_dog'"]),
    ("name: dog", "name:", ["name: found nothing, allowed: text"]),
    ("name: dog\n", "", ["r.yaml:1:1 name: missing, expected text", "exports go to"]),
    ("schema: dbrun/v1", "schema: dbrun/v9", ["found 'dbrun/v9', allowed: dbrun/v1; this dbrun is older than"]),
    ("schema: dbrun/v1\n", "", ["schema: missing, expected dbrun/v1"]),
    ("type: sd", "type: sdxl9",
     ["r.yaml:3:14 base.type: found 'sdxl9', allowed: one of " + ", ".join(family_names())]),
    ("{type: sd, path: embedded}", "embedded", ["base: found 'embedded', allowed: a mapping such as {path: …}"]),
    ("type: lora", "type: loar",
     ["adapt.denoiser.type: found 'loar', allowed: full, loha, lokr, lora or oft; did you mean 'lora'?"]),
    ("type: lora, ", "", ["adapt.denoiser.type: missing"]),
    ("targets: all", "targets: attn",
     ["adapt.denoiser.targets: found 'attn', allowed: one of attention, attention+ff, blocks, linear, all, or a list",
      "did you mean 'attention'?"]),
    ("targets: all", "targets: {a: b}", ["targets: found a mapping, allowed: text or a list of text"]),
    ("targets: all", "targets: [a, [b]]", ["r.yaml:11:49 adapt.denoiser.targets.1: found a list, allowed: text"]),
    ("steps: 300", "schedule: {type: cosin}",
     [f"train.schedule.type: found 'cosin', allowed: {SCHEDULES}; did you mean 'cosine'?"]),
    ("steps: 300", "schedule: {warmup_steps: 3}",
     [f"train.schedule.type: missing, allowed: {SCHEDULES}"]),
    ("steps: 300", "schedule: {type: cosine, warmup: 3}",
     ["train.schedule.warmup: unknown key; did you mean 'warmup_steps'?"]),
    ("steps: 300", "schedule: {type: cosine, warmup_steps: -3}",
     ["train.schedule.warmup_steps: found '-3', allowed: a whole number of at least 0"]),
    ("steps: 300", "schedule: cosine",
     ["train.schedule: found 'cosine', allowed: a mapping", "did you mean '{type: cosine}'?"]),
    ("train:", "objective: {weighting: {type: min_snr, gamma: 0}}\ntrain:",
     ["objective.weighting.gamma: found '0', allowed: a number above 0"]),
    ("train:", "objective: {weighting: min_snr}\ntrain:", ["found 'min_snr'", "did you mean '{type: min_snr}'?"]),
    ("train:", "objective: {prediction: v-prediction}\ntrain:", ["found 'v-prediction'", "mean 'v_prediction'?"]),
    ("train:", "objective: {zero_terminal_snr: 1}\ntrain:", ["zero_terminal_snr: found '1', allowed: true or false"]),
    ("train:", "objective: {prediction: epsilon, zero_terminal_snr: true}\ntrain:",
     ["r.yaml:12:53 objective.zero_terminal_snr: found zero terminal SNR together with epsilon",
      "→ write `prediction: v_prediction` under `objective`"]),
    ("train:", "objective: {prediction: epsilon, zero_terminal_snr: true, weighting: {type: min_snr}}\ntrain:",
     ["objective.weighting.type: found 'min_snr' under epsilon with zero terminal SNR", "would not be a number"]),
    ("train:", "objective: {prediction: v_prediction, zero_terminal_snr: true, "
     "weighting: {type: min_snr, rule: dreambooth}}\ntrain:", ["found 'min_snr' under v_prediction", "`rule: paper`"]),
    ("train:", "objective: {timesteps: {type: window, low: 600, high: 300}}\ntrain:",
     ["objective.timesteps.low: found 600 with `high: 300`", "→ write a `low` below 300, or a `high` above 600"]),
    ("train:", "objective: {timesteps: {type: early, strength: 1}}\ntrain:", ["allowed: a number above 1"]),
    ("steps: 300", "snr_gamma: 5", ["here it is called 'objective.weighting'"]),
    ("steps: 300", "precision: bf61", ["found 'bf61', allowed: auto, fp32, bf16 or fp16; did you mean 'bf16'?"]),
    ("[diffusers, peft]", "[diffusers, pft]", ["r.yaml:15:21 export.1: found 'pft'", "did you mean 'peft'?"]),
    ("[diffusers, peft]", "diffusers",
     ["export: found 'diffusers', allowed: a list of diffusers, peft, kohya, component, merged, single_file or"]),
    ("[diffusers, peft]", "[]", ["export: found an empty list, allowed: a list", "at least 1"]),
    ("[diffusers, peft]", "[peft, peft]", ["r.yaml:15:16 export.1: found 'peft' twice"]),
    ("{resolution: 64}", "{background: red}", ["images.background: found 'red', allowed: text such as '#ffffff'"]),
    ("{resolution: 64}", "{resolution: 4}", ["found '4', allowed: a whole number from 8 to 8192"]),
    ("{count: 4}", "4", ["prior: found '4', allowed: a mapping such as {count: …}"]),
    ("{count: 4}", "{guidance: -1}", ["prior.guidance: found '-1', allowed: a number of at least 0"]),
    ("a photo of sks dog", "'  '", ["subject.instance_prompt", "allowed: words, not only blanks"]),
    ("  class_prompt: a photo of a dog\n", "", ["subject.class_prompt: missing, needed by `prior`"]),
    ("class_prompt: a photo of a dog", "class_prompt: [a dog, '']", ["subject.class_prompt.1", "not only blanks"]),
    ("class_prompt: a photo of a dog", "class_prompt: []", ["subject.class_prompt", "found an empty list"]),
    ("class_prompt: a photo of a dog", "class_prompt: [a, b, c, d, e]",
     ["prior.count: found 4, but `subject.class_prompt` has 5 prompts", "`count: 5`"]),
    ("type: sd", "type: if_stage2", ["r.yaml:8:8 prior: found class images to generate", "if_stage2", "enlarges"]),
    ("steps: 300", "class_labels: timesteps",
     ["train.class_labels: found 'timesteps', allowed for `base.type: sd`: none", "leave it out"]),
    ("prior: {count: 4}\n", "", ["subject.class_prompt: found a class prompt, but no `prior`",
                                 "`prior=null subject.class_prompt=null`"]),
    ("class_prompt: a photo of a dog", "class_prompt: a photo of sks dog",
     ["subject.class_prompt: found the instance prompt", "without the trigger"]),
    ("{count: 4}", "{count: 4, images: dogs}", ["prior.count: found 4", "`prior.images` names your own"]),
    ("{count: 4}", "{guidance: 2.5, target: base}", ["prior.guidance: found 2.5", "`prior.guidance=null`"]),
    ("{count: 4}", "{steps: 3, target: base}", ["prior.steps: found 3", "`target: base` uses none"]),
    ("{count: 4}", "{precision: bf16, target: base}", ["prior.precision: found bf16", "`prior.precision=null`"]),
    ("{count: 4}", "{images: dogs, target: base}", ["prior.target: found 'base'", "`target: images`"]),
    ("a photo of a dog\nprior: {count: 4}", "[a dog, a cat]\nprior: {images: dogs}",
     ["subject.class_prompt: found a list", "a .txt file beside each picture"]),
    ("{count: 4}", "{target: base}\nobjective: {prediction: v_prediction}",
     ["prior.target: found 'base', but `objective.prediction` makes the denoiser predict"]),
    ("path: embedded", "path: embedded, revision: main", ["r.yaml:3:44 base.revision: found a revision", "a Hub id"]),
    ("export:", "  precision: fp16\ndevice: cpu\nexport:",
     ["train.precision: found 'fp16', allowed with `device: cpu`"]),
    ("prior: {count: 4}", "prior: {precision: fp16}\ndevice: cpu",
     ["prior.precision: found 'fp16', allowed with `device: cpu`: fp32 or bf16"]),
    ("schema: dbrun/v1", "schema: dbrun/v1\nsamples: {prompts: a dog}", ["found 'a dog', allowed: a list of text"]),
]
IDS = [new[:30] or f"no {old[:20]}" for old, new, _ in WRONG]


@pytest.mark.parametrize(("old", "new", "fragments"), WRONG, ids=IDS)
def test_a_wrong_recipe_is_told_in_full(load, good, old, new, fragments) -> None:
    assert old in good
    with pytest.raises(InvalidRecipe) as caught:
        load(good.replace(old, new, 1))
    for fragment in fragments:
        assert fragment in str(caught.value)
    assert "pydantic" not in str(caught.value) and "Input should" not in str(caught.value)


def test_all_problems_come_at_once_in_the_order_of_the_file(load, good) -> None:
    text = good.replace("name: dog", "nmae: dog").replace("steps: 300", "steps: x").replace("peft", "pfet")
    with pytest.raises(InvalidRecipe) as caught:
        load(text)
    problems = caught.value.problems
    assert [p.key for p in problems] == ["name", "nmae", "train.steps", "export.1"]
    assert [p.span.line for p in problems] == [1, 2, 13, 15]
    assert caught.value.exit_code == 2


def test_a_wrong_override_is_shown_as_it_was_typed(load, good) -> None:
    with pytest.raises(InvalidRecipe) as caught:
        load(good, "train.steps=3", "train.stpes=5")
    assert str(caught.value).splitlines() == [
        "command line: train.stpes: unknown key; did you mean 'train.steps'?",
        "       | train.stpes=5",
        "       |       ^^^^^",
    ]


def test_a_missing_key_is_told_at_the_file_even_with_overrides(load, good) -> None:
    with pytest.raises(InvalidRecipe, match=r"^r.yaml:4:1 subject.images: missing"):
        load(good.replace("  images: embedded:sks_dog\n", ""), "subject.class_prompt=x")


def test_a_wrong_type_is_told_without_what_follows_from_it(load, good) -> None:
    with pytest.raises(InvalidRecipe) as caught:
        load(good, "base.type=sdd")
    assert [p.key for p in caught.value.problems] == ["base.type"]


def test_a_value_from_an_extended_file_is_told_there(load, good, tmp_path) -> None:
    (tmp_path / "below.yaml").write_text(good.replace("300", "x"))
    with pytest.raises(InvalidRecipe, match=r"^below.yaml:13:10 train.steps: found 'x'"):
        load("extends: below.yaml\nname: above\n")


def test_what_a_family_cannot_do_is_told_with_the_reason(load, good) -> None:
    for family, change, fragments in (
            ("if_stage1", "adapt.text_encoder={type: lora, rank: 2}", ["adapt.text_encoder", "T5", "remove it"]),
            ("if_stage1", "train.class_labels=noise_level", ["allowed for `base.type: if_stage1`: none"]),
            ("if_stage2", "train.class_labels=none", ["allowed for `base.type: if_stage2`: noise_level, timesteps"])):
        with pytest.raises(InvalidRecipe) as caught:
            load(good.replace("type: sd, path: embedded", f"type: {family}, path: x"), "prior=null",
                 "subject.class_prompt=null", change)
        assert all(fragment in str(caught.value) for fragment in fragments)
        assert change.partition("=")[0] in [problem.key for problem in caught.value.problems]


def many(line: str) -> str:
    return "".join(line.format(n) for n in range(1500))


@pytest.mark.parametrize("text", [many("key{}: 1\n"), "zz: {" + many("key{}: 1, ") + "}\n", many("b{0}: ${{x{0}}}\n"),
                                  "export: [" + many("aa{}, ") + "]\n", "train: {" + many("stepz{}: 1, ") + "}\n"],
                         ids=lambda text: text[:12])
def test_thousands_of_problems_are_told_in_seconds(text: str, tmp_path: Path) -> None:
    file = tmp_path / "r.yaml"
    file.write_text(text)
    began = time.process_time()
    with pytest.raises(InvalidRecipe):
        load_recipe(file)
    assert time.process_time() - began < 5, "it took minutes"
