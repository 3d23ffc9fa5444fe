"""Is what `preprocess` stored of pictures shown as it should be: every view, every mask, and nobody else's?"""

from pathlib import Path

import torch
from safetensors.torch import save_file

from dbrun.training.latent_cache import read_halves

NAMES = ("class.00000", "class.00001", "instance.00000", "instance.00000.001", "instance.00001")


def stored(folder: Path, masked: bool = False) -> None:
    """Latents that are their place in NAMES everywhere."""
    save_file({name: torch.full((2, 2, 2), float(i)) for i, name in enumerate(NAMES)}, folder / "latents.safetensors")
    if masked:
        save_file({"instance.00000.001": torch.tensor([[1.0, 0.0], [0.5, 0.0]])}, folder / "masks.safetensors")


def shows(half, picture: int) -> list[int]:
    return [int(half.encoded[way].flatten()[0]) for way in half.crops_of(picture)]


def test_a_picture_is_all_its_views(tmp_path: Path) -> None:
    stored(tmp_path)
    instance, classes = read_halves(tmp_path, [0, 1], [2, 2], None, 0.1)
    assert (instance.name, classes.name) == ("instance", "class") and instance.prompts == [0, 1]
    assert [shows(instance, i) for i in range(2)] == [[2, 3], [4]]
    assert [shows(classes, i) for i in range(2)] == [[0], [1]]
    assert not instance.loss_masks and not classes.loss_masks


def test_where_the_class_half_shows_the_instance_pictures_it_does_so_in_turn(tmp_path: Path) -> None:
    stored(tmp_path, masked=True)
    instance, classes = read_halves(tmp_path, [0, 1], [2, 2, 3, 3], [0, 1, 0, 1], 0.1)
    assert [shows(classes, i) for i in range(4)] == [[2, 3], [4], [2, 3], [4]]
    assert instance.loss_masks and not classes.loss_masks, "what a class looks like is not masked"


def test_a_repeated_picture_is_shown_as_often(tmp_path: Path) -> None:
    stored(tmp_path)
    half = read_halves(tmp_path, [0, 1], [2, 2], None, 0.1, repeats=(1, 3))
    assert [one.epoch(0).pictures for one in half] == [(0, 1, 1, 1), (0, 1)], "repeats are the instance pictures'"
    assert read_halves(tmp_path, [0, 1], [], None, 0.1)[0].epoch(0).pictures == (0, 1)


def test_a_mask_says_how_much_each_place_counts(tmp_path: Path) -> None:
    stored(tmp_path, masked=True)
    for unmasked in (0.0, 0.1, 1.0):
        (instance,) = read_halves(tmp_path, [0, 1], [], None, unmasked)
        assert set(instance.loss_masks) == {3}
        torch.testing.assert_close(instance.loss_masks[3],
                                   torch.tensor([[1.0, unmasked], [(1 + unmasked) / 2, unmasked]]))
