"""What did `preprocess` store of the pictures?"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path

from safetensors.torch import load_file

from dbrun.training.batches import PictureSet
from dbrun.training.caption_sampling import FIXED_CAPTIONS, CaptionSampler


def read_halves(folder: Path, instance: Sequence[int], classes: Sequence[int], shows: Sequence[int] | None,
                unmasked: float, varied: CaptionSampler = FIXED_CAPTIONS,
                repeats: Sequence[int] = ()) -> Sequence[PictureSet]:
    """The instance half, and the class half where there is one.

    instance, classes: the number of each row's prompt; shows: the instance picture that each row of the class half
    shows, None where it has pictures of its own; unmasked: how much what a mask hides counts, 0 to 1; varied: how
    prompts of the instance half differ from draw to draw; repeats: how often an epoch shows each instance picture,
    once where there are none.
    """
    named = load_file(folder / "latents.safetensors")
    names = sorted(named)
    stored, views = [named[name] for name in names], defaultdict[str, list[int]](list)
    for number, name in enumerate(names):
        # instance.00003.001 is a further view of instance.00003
        views[".".join(name.split(".")[:2])].append(number)
    masks = load_file(folder / "masks.safetensors") if (folder / "masks.safetensors").exists() else {}
    counts = {number: unmasked + (1.0 - unmasked) * masks[name] for number, name in enumerate(names) if name in masks}
    own = [views[f"instance.{i:05d}"] for i in range(len(instance))]
    half = [PictureSet("instance", stored, instance, own, repeats or None, counts, varied)]
    if classes:
        ways = [views[f"class.{i:05d}"] for i in range(len(classes))] if shows is None else [own[i] for i in shows]
        half.append(PictureSet("class", stored, classes, ways))
    return half
