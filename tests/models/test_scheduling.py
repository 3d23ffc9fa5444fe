"""What must a scheduler say otherwise of a denoiser that was trained otherwise?"""

import pytest

from dbrun.models.scheduling import scheduler_changes

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
