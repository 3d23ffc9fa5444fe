"""Is every picture given the right shape, and the right part of it shown?"""

import subprocess
import sys

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dbrun.images.buckets import (
    CropBox,
    CropSettings,
    batches_per_epoch,
    bucket_shapes,
    center_crop,
    nearest_shape,
    square_shape,
)

SIDES = st.integers(16, 6000)


def test_the_buckets_are_those_of_sd_scripts() -> None:
    """Its make_bucket_resolutions((512, 512), 256, 1024, 64), written down."""
    assert bucket_shapes(512, 64, 256, 1024) == (
        (256, 832), (256, 896), (256, 960), (256, 1024), (320, 704), (320, 768), (384, 640), (448, 576), (512, 512),
        (576, 448), (640, 384), (704, 320), (768, 320), (832, 256), (896, 256), (960, 256), (1024, 256))


@given(st.integers(1, 32), st.integers(1, 64), st.integers(8, 2000), st.integers(8, 4000))
@settings(max_examples=80, deadline=None)
def test_buckets_keep_what_they_promise(times: int, step: int, shortest: int, longest: int) -> None:
    side = times * step
    made = bucket_shapes(side, step, shortest, longest)
    assert (side, side) in made
    for width, height in set(made) - {(side, side)}:
        assert width % step == height % step == 0 and width * height <= side * side
        assert shortest <= min(width, height) and max(width, height) <= longest and (height, width) in made


@pytest.mark.parametrize(("size", "shape"), [
    ((600, 600), (64, 64)), ((640, 480), (72, 56)), ((480, 640), (56, 72)), ((1920, 1080), (80, 48)),
    ((9000, 100), (128, 32)), ((100, 9000), (32, 128))])
def test_a_picture_gets_the_shape_that_is_nearest_to_its_own(size, shape) -> None:
    assert nearest_shape(size, bucket_shapes(64, 8, 32, 128)) == shape


@given(SIDES, SIDES, st.integers(0, 6), st.booleans(), st.integers(0, 2**60))
@settings(max_examples=80, deadline=None)
def test_a_frame_lies_inside_its_picture_and_fills_its_shape(width, height, crops, flip, seed) -> None:
    cut = CropSettings(bucket_shapes(64, 8, 32, 128), crops, flip, seed)
    frames = cut.crop_boxes("picture", (width, height))
    assert len(set(frames)) == len(frames) and len({frame.size for frame in frames}) == 1
    assert 1 <= len(frames) <= max(1, crops) * (1 + flip)
    for frame in frames:
        assert frame.size in cut.shapes
        assert 0 <= frame.left <= frame.resized_size[0] - frame.size[0]
        assert 0 <= frame.top <= frame.resized_size[1] - frame.size[1]
        assert min(s - f for s, f in zip(frame.resized_size, frame.size)) == 0, "no more is cut off than must be"


def test_the_middle_is_shown_where_nothing_else_is_asked() -> None:
    assert CropSettings(square_shape(64)).crop_boxes("a", (128, 64)) == (CropBox((128, 64), 32, 0, (64, 64)),)
    assert center_crop((100, 300), (64, 64)) == CropBox((64, 192), 0, 64, (64, 64))
    # of an odd rest the larger half is cut off at the end, in both directions: another pixel would be other bytes
    assert center_crop((64, 101), (64, 64)) == CropBox((64, 101), 0, 18, (64, 64))
    assert center_crop((101, 64), (64, 64)) == CropBox((101, 64), 18, 0, (64, 64))


def test_random_crops_differ_by_picture_number_and_seed_and_come_again() -> None:
    def tops(digest: str = "a", seed: int = 0) -> list[int]:
        return [f.top for f in CropSettings(square_shape(64), 8, seed=seed).crop_boxes(digest, (64, 6400))]
    assert tops() == tops() and len(set(tops())) == 8
    assert tops() != tops("b") != tops(seed=1)
    few = [f.top for f in CropSettings(square_shape(64), 3).crop_boxes("a", (64, 6400))]
    assert tops()[:3] == few, "more crops add to the first"
    many = [f.top for f in CropSettings(square_shape(64), 40).crop_boxes("a", (64, 6400))]
    assert min(many) < 600 and max(many) > 5700


def test_a_flip_doubles_the_ways_and_moves_nothing() -> None:
    plain, mirrored = CropSettings(square_shape(64), flip=True).crop_boxes("a", (128, 64))
    assert (plain.mirrored, mirrored.mirrored) == (False, True) and plain.left == mirrored.left


def test_what_is_lost_and_how_much_it_is_enlarged() -> None:
    frame = center_crop((200, 100), (64, 64))
    assert frame.cropped_share == 0.5 and frame.upscale_factor((200, 100)) == 0.64
    assert frame.source_box((200, 100)) == (50.0, 0.0, 150.0, 100.0)


def test_an_epoch_of_several_shapes_ends_each_of_them() -> None:
    assert batches_per_epoch([5, 3, 1], 2) == 3 + 2 + 1 and batches_per_epoch([4], 4) == 1


def test_the_arithmetic_needs_neither_torch_nor_pillow() -> None:
    program = "import sys, dbrun.images.buckets; assert not {'torch', 'PIL', 'numpy'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", program], check=True)
