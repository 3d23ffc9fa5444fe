"""What does a base that only enlarges begin with?"""

import hashlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from dbrun.errors import StageFailed
from dbrun.models.base import families
from dbrun.stages.base import stages
from dbrun.stages.export import default_prompts
from dbrun.stages.sources import BaseSource, Picture, Sources
from dbrun.stages.support.lowres_inputs import DEFAULT_COLUMNS, LowresInputs, lowres_inputs


def sources(count: int) -> Sources:
    pictures = tuple(Picture(f"{i:064d}", f"sks dog {i}") for i in range(count))
    return Sources(BaseSource("files:0", "if_stage2", None, None, {}, None), pictures)


@pytest.fixture
def stage_two(recipe):
    return recipe(base={"type": "if_stage2"}, prior=None, samples={"prompts": None}, images={"background": "#00ff00"})


def test_a_base_that_draws_from_words_begins_with_nothing(recipe) -> None:
    assert lowres_inputs(recipe(), sources(2)) is None


def test_each_picture_is_shown_under_its_own_prompt(stage_two) -> None:
    begin = lowres_inputs(stage_two, sources(9))
    assert begin == LowresInputs(sources(9).pictures, "#00ff00")
    assert default_prompts(stage_two, Sources(None, ()), begin) == tuple(f"sks dog {i}" for i in range(DEFAULT_COLUMNS))


def test_prompts_of_the_recipe_take_the_pictures_in_turn(recipe, stage_two) -> None:
    params = stages()["export"].params(stage_two, sources(2))
    assert params.prompts == ("sks dog 0", "sks dog 1")
    begin = params.starts
    assert begin is not None and begin.key(0) == begin.key(2) != begin.key(1)
    assert begin.key(0) != LowresInputs(begin.pictures, "#000000").key(0)


def test_the_small_picture_is_the_average_and_another_file_is_refused(tmp_path: Path) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (32, 32, 3), dtype=np.uint8)
    path = tmp_path / "a.png"
    Image.fromarray(pixels).save(path)
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    begin = LowresInputs((Picture(digest, "a dog"),), "#ffffff")
    small = np.asarray(begin.start_image(0, {digest: path}, 32, families()["if_stage2"]))
    assert np.abs(small - pixels.reshape(8, 4, 8, 4, 3).mean((1, 3))).max() <= 1
    path.write_bytes(path.read_bytes() + b"x")
    with pytest.raises(StageFailed, match="changed after the run began"):
        begin.start_image(0, {digest: path}, 32, families()["if_stage2"])
