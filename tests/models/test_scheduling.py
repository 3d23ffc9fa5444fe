"""Which schedulers does training follow, and what must one say otherwise of a denoiser that was trained otherwise?"""

import pytest

from dbrun.errors import RecipeError
from dbrun.models.scheduling import VARIANCE_PRESERVING, check_scheduler_config, scheduler_changes

TRAILING = {"rescale_betas_zero_snr": True, "timestep_spacing": "trailing"}
CASES = [
    ({}, None, False, {}),
    ({}, "epsilon", False, {}),
    ({"prediction_type": "v_prediction"}, "v_prediction", False, {}),
    ({"prediction_type": "v_prediction"}, "epsilon", False, {"prediction_type": "epsilon"}),
    ({}, "sample", False, {"prediction_type": "sample"}),
    ({}, "v_prediction", True, {"prediction_type": "v_prediction", **TRAILING}),
    ({"rescale_betas_zero_snr": True}, None, True, {}),
    ({"rescale_betas_zero_snr": False}, None, True, TRAILING),
    ({"variance_type": "learned_range"}, None, False, {"variance_type": "fixed_small"}),
    ({"variance_type": "learned"}, None, False, {"variance_type": "fixed_small"}),
    ({"variance_type": "fixed_large"}, None, False, {}),
]


@pytest.mark.parametrize(("config", "prediction", "zero", "expected"), CASES)
def test_only_what_differs_is_changed(config, prediction, zero, expected) -> None:
    assert scheduler_changes(config, prediction, zero) == expected


@pytest.mark.parametrize("name", VARIANCE_PRESERVING)
def test_the_own_config_of_every_allowed_scheduler_is_allowed(name) -> None:
    diffusers = pytest.importorskip("diffusers")
    scheduler = getattr(diffusers, name)
    # without its package, a scheduler of diffusers is a stand-in
    if getattr(scheduler, "_backends", None):
        pytest.skip(f"{name} needs {scheduler._backends}")
    config = {**scheduler().config, "_class_name": name}
    check_scheduler_config(config, "file", VARIANCE_PRESERVING, name)


@pytest.mark.parametrize(("change", "word"), [
    ({"_class_name": "FlowMatchEulerDiscreteScheduler"}, "FlowMatchEulerDiscreteScheduler.*flow matching"),
    ({"_class_name": "EDMDPMSolverMultistepScheduler"}, "noise levels of EDM"),
    ({"_class_name": "SomeScheduler"}, "another equation"),
    ({"_class_name": None}, "names no scheduler"),
    ({"prediction_type": "flow_prediction"}, "prediction_type"),
    ({"beta_schedule": "sigmoid"}, "beta_schedule"),
    ({"use_flow_sigmas": True}, "use_flow_sigmas"),
    ({"timestep_type": "continuous"}, "timestep_type"),
    ({"rescale_betas_zero_snr": 1}, "rescale_betas_zero_snr"),
    ({"trained_betas": "many"}, "trained_betas"),
    ({"num_train_timesteps": "1000"}, "num_train_timesteps"),
    ({"beta_end": float("nan")}, "beta_end"),
])
def test_a_scheduler_of_another_process_is_refused_by_name(change, word) -> None:
    config = {"_class_name": "DDIMScheduler", **change}
    with pytest.raises(RecipeError, match=word) as caught:
        check_scheduler_config(config, "file", VARIANCE_PRESERVING, None)
    assert caught.value.fix


def test_the_class_that_is_loaded_counts_too() -> None:
    with pytest.raises(RecipeError, match="LCMScheduler"):
        check_scheduler_config({"_class_name": "DDIMScheduler"}, "file", VARIANCE_PRESERVING, "LCMScheduler")
