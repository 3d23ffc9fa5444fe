"""Is what `preprocess` stored of pictures shown as it should be: every crop, every mask, and nobody else's?"""

from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from dbrun.errors import StageFailed
from dbrun.stages.support.prompt_index import PromptIndex
from dbrun.training.batches import PictureSet
from dbrun.training.latent_cache import (
    load_conditions,
    load_encoder_outputs,
    load_latents,
    load_loss_masks,
    picture_sets,
)

NAMES = ("class.00000", "class.00001", "instance.00000", "instance.00000.001", "instance.00001")
PROMPTS = ("a", "b", "c", "d")
INDEX = PromptIndex(PROMPTS, (0, 1), (2, 2))


def stored(folder: Path, *names: str, masked: bool = False) -> None:
    """Latents that are their place in NAMES everywhere."""
    save_file({name: torch.full((2, 2, 2), float(NAMES.index(name))) for name in names},
              folder / "latents.safetensors")
    if masked:
        save_file({"instance.00000.001": torch.tensor([[1.0, 0.0], [0.5, 0.0]])}, folder / "masks.safetensors")


def halves(folder: Path, index: PromptIndex, *, shared: bool = False, unmasked: float = 0.1) -> list[PictureSet]:
    latents = load_latents(folder)
    return list(picture_sets(index.manifest(latents, shared=shared), latents, load_loss_masks(folder, unmasked), {}))


def shows(half: PictureSet) -> list[list[int]]:
    """What the crops of each picture hold."""
    return [[int(half.latents[crop].flatten()[0]) for crop in picture.crops] for picture in half.pictures]


def test_a_picture_is_all_its_crops(tmp_path: Path) -> None:
    stored(tmp_path, *NAMES)
    instance, classes = halves(tmp_path, INDEX)
    assert (instance.name, classes.name) == ("instance", "class")
    assert [picture.prompt for picture in (*instance.pictures, *classes.pictures)] == [0, 1, 2, 2]
    assert shows(instance) == [[2, 3], [4]] and shows(classes) == [[0], [1]]
    assert not instance.loss_masks and not classes.loss_masks


def test_where_the_class_half_shows_the_instance_pictures_it_does_so_in_turn(tmp_path: Path) -> None:
    stored(tmp_path, *NAMES[2:], masked=True)
    instance, classes = halves(tmp_path, PromptIndex(PROMPTS, (0, 1), (2, 2, 3, 3)), shared=True)
    assert shows(classes) == [[2, 3], [4], [2, 3], [4]]
    assert instance.loss_masks and not classes.loss_masks, "what a class looks like is not masked"
    named = PromptIndex(PROMPTS, (0, 1), (2, 3, 3), shows=(1, 0, 0))
    assert shows(halves(tmp_path, named, shared=True)[1]) == [[4], [2, 3], [2, 3]], "or as the index says"


def test_a_repeated_picture_is_shown_as_often(tmp_path: Path) -> None:
    stored(tmp_path, *NAMES)
    repeated = PromptIndex(PROMPTS, (0, 1), (2, 2), repeats=(1, 3))
    assert [one.epoch(0).pictures for one in halves(tmp_path, repeated)] == [(0, 1, 1, 1), (0, 1)]
    stored(tmp_path, *NAMES[2:])
    (alone,) = halves(tmp_path, PromptIndex(PROMPTS, (0, 1), ()))
    assert alone.epoch(0).pictures == (0, 1)


def test_a_mask_says_how_much_each_place_counts(tmp_path: Path) -> None:
    stored(tmp_path, *NAMES[2:], masked=True)
    for unmasked in (0.0, 0.1, 1.0):
        (instance,) = halves(tmp_path, PromptIndex(PROMPTS, (0, 1), ()), unmasked=unmasked)
        assert set(instance.loss_masks) == {"instance.00000.001"}
        torch.testing.assert_close(instance.loss_masks["instance.00000.001"],
                                   torch.tensor([[1.0, unmasked], [(1 + unmasked) / 2, unmasked]]))


def test_variants_dropout_and_the_empty_prompt_are_the_instance_pictures(tmp_path: Path) -> None:
    index = PromptIndex(("", "b", "c"), (1, 2), (1, 1), variants=((1, 2), (2,)), dropout=(0.5, 0.0))
    manifest = index.manifest(NAMES, shared=False)
    assert [(one.variants, one.dropout) for one in manifest.instance] == [((1, 2), 0.5), ((2,), 0.0)]
    assert [(one.variants, one.dropout) for one in manifest.classes] == [((), 0.0)] * 2
    assert manifest.empty_prompt == 0 and INDEX.manifest(NAMES, shared=False).empty_prompt is None


def test_crops_are_drawn_from_in_the_order_of_their_names() -> None:
    """Of more than a thousand, `.1000` stands before `.101`, as it always did: another order is another adapter."""
    names = ["instance.00000", *(f"instance.00000.{number:03d}" for number in range(1, 1002))]
    (picture,) = PromptIndex(PROMPTS, (0,), ()).manifest(reversed(names), shared=False).instance
    assert picture.crops == tuple(sorted(names)) and picture.crops[101] == "instance.00000.1000"


@pytest.mark.parametrize(("index", "names", "shared", "found"), [
    (INDEX, NAMES[:4], False, r"0 crops of instance\.00001"),
    (INDEX, NAMES[1:], False, r"0 crops of class\.00000"),
    (INDEX, (*NAMES, "instance.00002"), False, r"latents of instance\.00002"),
    (INDEX, (*NAMES, "readme"), False, "latents of readme"),
    (INDEX, NAMES, True, r"latents of class\.00000"),
    (INDEX, (*NAMES, "instance.00001.002"), False, r"2 crops of instance\.00001, which are not all"),
    (PromptIndex(PROMPTS, (0, 1), (2, 4)), NAMES, False, "the prompt number 4, of 4"),
    (PromptIndex(PROMPTS, (0, 1), (2, 2), variants=((0,), (-1,))), NAMES, False, "the prompt number -1"),
    (PromptIndex(PROMPTS, (0, 1), (2, 2), repeats=(1,)), NAMES, False, "1 repeats for 2 instance"),
    (PromptIndex(PROMPTS, (0, 1), (2, 2), dropout=(0.1, 0.1)), NAMES, False, "no empty prompt"),
    (PromptIndex(PROMPTS, (0, 1), (2, 2), shows=(0,)), NAMES[2:], True, "1 pictures for 2 class rows"),
    (PromptIndex(PROMPTS, (0, 1), (2, 2), shows=(0, 2)), NAMES[2:], True, "shows picture 2, of 2"),
])
def test_an_index_that_does_not_agree_with_the_latents_is_refused(index: PromptIndex, names: tuple[str, ...],
                                                                 shared: bool, found: str) -> None:
    with pytest.raises(StageFailed, match=found):
        index.manifest(names, shared=shared)


def test_each_prompt_has_its_condition(tmp_path: Path) -> None:
    save_file({f"{number:05d}.{name}": torch.full((1,), float(number)) for number in range(2)
               for name in ("hidden", "mask.part")}, tmp_path / "prompts.safetensors")
    first, second = load_conditions(tmp_path, 2)
    assert set(first) == {"hidden", "mask.part"} and second["hidden"].item() == 1.0
    for count in (1, 3):
        with pytest.raises(StageFailed, match=f"holds 2 prompts that are not the {count} of the index"):
            load_conditions(tmp_path, count)


def test_each_prompt_has_the_outputs_of_the_encoders_that_do_not_learn(tmp_path: Path) -> None:
    save_file({f"{number:05d}.text_encoder_2.{name}": torch.full((1,), number + 0.1) for number in range(2)
               for name in ("hidden", "pooled")}, tmp_path / "encoder_outputs.safetensors")
    known = load_encoder_outputs(tmp_path, ("a", "b"), ("text_encoder_2",), torch.bfloat16)
    assert known.keys() == {"a", "b"} and known["b"]["text_encoder_2"].keys() == {"hidden", "pooled"}
    assert torch.equal(known["b"]["text_encoder_2"]["pooled"], torch.tensor([1.1], dtype=torch.bfloat16))
    for texts, encoders in ((("a",), ("text_encoder_2",)), (("a", "b", "c"), ("text_encoder_2",)),
                            (("a", "b"), ("text_encoder",)), (("a", "b"), ("text_encoder", "text_encoder_2"))):
        with pytest.raises(StageFailed, match="does not hold the outputs of"):
            load_encoder_outputs(tmp_path, texts, encoders, torch.float32)
