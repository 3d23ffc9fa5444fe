"""Is what means nothing for a base's process refused, before the base is here?"""

import pytest

from dbrun.errors import KeyProblem
from dbrun.options.objective import Objective, check_objective
from dbrun.recipe.checks.exports import export_formats
from dbrun.recipe.text.spans import InvalidRecipe

FLOW, DDPM = ("base={type: flux, path: owner/name}", "adapt.denoiser.targets=attention", "export=[diffusers]"), ()
Z_IMAGE = "base={type: z_image, path: owner/name}"
REFUSED = [
    (FLOW, "objective.prediction=v_prediction", "prediction: found 'v_prediction', allowed for this base: flow"),
    (FLOW, "objective.zero_terminal_snr=true", "objective.zero_terminal_snr: found true"),
    (FLOW, "objective.weighting={type: min_snr, rule: dreambooth}", "objective.weighting.rule: found 'dreambooth'"),
    (FLOW, "train.class_labels=timesteps", "class_labels: found 'timesteps', allowed for `base.type: flux`: none"),
    (FLOW, "adapt.denoiser.targets=all", "found 'all', allowed for `base.type: flux`: attention, attention+ff, blocks"),
    ((*FLOW, "adapt.denoiser={type: lokr}"), "export=[kohya]", "found 'kohya', which joins layers of the denoiser, and "
     "of all types only LoRA can be joined"),
    ((*FLOW, "adapt.denoiser={type: lokr}"), "export=[diffusers]", "found 'diffusers', which carries LoRA only, and "
     "`adapt.denoiser` is of type lokr"),
    ((Z_IMAGE, *FLOW[1:], "adapt.denoiser={type: loha}"), "export=[diffusers]", "found 'diffusers', which carries LoRA "
     "and LoKr only, and `adapt.denoiser` is of type loha"),
    (("base={type: chroma, path: owner/name}", *FLOW[1:]), "export=[kohya]", "found 'kohya', which is not written "
     "for transformers: kohya's files join layers that adapters hold apart; ComfyUI reads the file of `diffusers` as "
     "well"),
    (FLOW, "export=[single_file]", "found 'single_file', which has no layout for `base.type: flux`; `merged` writes"),
    (FLOW, "adapt.text_encoder_2={type: lora}", "a T5, for which diffusers loads no adapter"),
    (DDPM, "objective.prediction=flow", "objective.prediction: found 'flow', allowed for this base: epsilon"),
    (DDPM, "objective.timesteps={type: uniform, shift: 3}", "only bases of flow matching have a shift"),
    (DDPM, "objective.timesteps={type: uniform, shift: none}", "only bases of flow matching have a shift"),
    (DDPM, "objective.weighting={type: cosmap}", "objective.weighting.type: found 'cosmap'"),
    (DDPM, "train.guidance=1", "train.guidance: found 1, but the denoiser of `base.type: sd` takes no guidance scale"),
    (DDPM, "adapt.denoiser.targets=blocks", "found 'blocks', allowed for `base.type: sd`: attention"),
]


@pytest.mark.parametrize(("base", "word", "told"), REFUSED, ids=[f"{len(base)} {word}" for base, word, _ in REFUSED])
def test_what_means_nothing_is_refused_with_its_place(load, good, base, word: str, told: str) -> None:
    with pytest.raises(InvalidRecipe) as caught:
        load(good, *base, word)
    assert told in str(caught.value) and "→" in str(caught.value)


@pytest.mark.parametrize("word", [
    "objective.prediction=flow", "objective.weighting={type: min_snr}", "objective.weighting={type: cosmap}",
    "objective.timesteps={type: mode, shift: 3}", "objective.timesteps={type: sigmoid, shift: resolution}",
    "train.guidance=1.0", "adapt.denoiser.targets=blocks", "objective.timesteps={type: window, low: 0, high: 500}"])
def test_what_has_a_meaning_is_allowed(load, good, word: str) -> None:
    assert load(good, *FLOW, word).recipe.base.type == "flux"


def test_a_lokr_goes_into_a_file_that_the_pipeline_of_its_base_reads(load, good) -> None:
    recipe = load(good, Z_IMAGE, "adapt.denoiser={type: lokr}", "export=null").recipe
    assert export_formats(recipe) == ("diffusers", "peft")


@pytest.mark.parametrize(("shift", "told"), [
    ("0", "found '0', allowed: none, resolution, or a number above 0"), ("-1", "found '-1', allowed: none, resolution"),
    ("some", "found 'some', allowed: none or resolution or a number"), ("1e3", "at most 100")])
def test_a_shift_is_a_word_or_a_number_above_zero(load, good, shift: str, told: str) -> None:
    with pytest.raises(InvalidRecipe) as caught:
        load(good, *FLOW, f"objective.timesteps={{type: uniform, shift: {shift}}}")
    assert "objective.timesteps.shift" in str(caught.value) and told in str(caught.value)


def problems(config: dict[str, object], **objective: object) -> list[KeyProblem]:
    return list(check_objective(Objective.model_validate(objective), "flow", config))


def test_a_shift_by_size_needs_a_base_that_has_one() -> None:
    wanted = {"timesteps": {"type": "uniform", "shift": "resolution"}}
    (problem,) = problems({"shift": 3.0}, **wanted)
    assert problem.key == "objective.timesteps.shift" and "the same shift for all sizes, 3" in problem.message
    assert problems({"shift": 3.0, "use_dynamic_shifting": True}, **wanted) == []


def test_a_window_must_lie_within_the_timesteps_of_the_base() -> None:
    window = {"timesteps": {"type": "window", "low": 0, "high": 900}}
    (problem,) = problems({"num_train_timesteps": 500}, **window)
    assert problem.key == "objective.timesteps.high"
    assert problems({}, **window) == []
