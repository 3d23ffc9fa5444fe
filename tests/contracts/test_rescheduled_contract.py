"""Does every family sample and train under another process where it is told to, and only there?"""

from pathlib import Path

import pytest
import torch
from PIL import Image
from representatives import family_cases

from dbrun.models.base import Family, families

FAMILIES = families()
CHANGES = {"prediction_type": "v_prediction", "rescale_betas_zero_snr": True, "timestep_spacing": "trailing"}
Base = tuple[Family, Path]


@pytest.fixture(scope="module", params=family_cases(
    name for name, family in FAMILIES.items() if family.process == "ddpm"))
def base(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Base:
    folder = tmp_path_factory.mktemp("rescheduled")
    FAMILIES[request.param].write_tiny_base(folder)
    return FAMILIES[request.param], folder


def test_the_scheduler_is_read_before_loading(base: Base) -> None:
    family, folder = base
    config = family.scheduler_config(folder)
    model = family.load(folder, device=torch.device("cpu"), dtype=torch.float32)
    assert config["beta_schedule"] == model.scheduler.config["beta_schedule"]


def test_the_process_follows_and_the_base_stays_as_it_was(base: Base) -> None:
    family, folder = base
    model = family.load(folder, device=torch.device("cpu"), dtype=torch.float32)
    before, last = dict(model.scheduler.config), torch.tensor([999])
    other = model.with_scheduler_changes(CHANGES)
    assert other.diffusion_process().prediction == "v_prediction"
    assert other.diffusion_process().snr(last).item() == 0.0
    assert model.diffusion_process().snr(last).item() > 0.0 and dict(model.scheduler.config) == before
    assert other.module("denoiser") is model.module("denoiser"), "nothing is copied"
    assert model.with_scheduler_changes({}) is model
    sampler = other.sampling_scheduler()
    assert all(sampler.config[key] == value for key, value in CHANGES.items())


def test_pictures_follow(base: Base) -> None:
    family, folder = base
    model = family.load(folder, device=torch.device("cpu"), dtype=torch.float32)
    side = family.resolution_multiple(folder) * max(1, 32 // family.resolution_multiple(folder))
    whole = Image.new("RGB", (side, side), "teal")
    start = None if family.start_image_reason is None else family.start_image(whole)

    def drawn(changes: dict[str, object]) -> bytes:
        picture = model.with_scheduler_changes(changes).generate("a dog", seed=3, steps=3,
                                  guidance=2.0, resolution=side, start_image=start)
        return picture.tobytes()

    plain = drawn({})
    assert len({plain, drawn({"prediction_type": "v_prediction"}), drawn({"prediction_type": "sample"}),
                drawn(CHANGES)}) == 4
    assert drawn({}) == plain
