"""Captions of scenes: random true descriptions, with attributes left out at random."""

from __future__ import annotations

from collections.abc import Mapping
from random import Random

from dbrun.embedded.making.animals import ANIMALS
from dbrun.embedded.making.world import COLLAR_COLOURS, COLOURS, HAT_COLOURS, KINDS, Scene

IDENTIFIERS = ("sks", "zwx", "ohwx", "mnv")
"""Words that are trained to mean nothing, so that a recipe can give one of them a meaning."""
LEADS = ("a photo of", "a picture of", "a drawing of", "an image of", "")
PLACE_PHRASES: Mapping[str, tuple[str, ...]] = {
    "on the grass": ("on the grass", "in the grass", "in the park"),
    "on the beach": ("on the beach", "at the beach", "by the sea"),
    "in the snow": ("in the snow", "on the snow"),
    "in the desert": ("in the desert",),
    "in the forest": ("in the forest", "in the woods"),
    "in the city": ("in the city", "on the street"),
    "in a room": ("in a room", "in the room", "at home"),
    "under water": ("under water", "in the water", "under the sea"),
    "at night": ("at night", "in the night"),
    "on the moon": ("on the moon",),
}
"""Names of each place; the first is the usual one."""
OTHER_WORDS = (
    *("a", "an", "the", "my", "and", "with", "wearing", "hat", "collar", "cute", "plain", "animal", "style"),
    *("spotted", "striped", "patched", "standing", "sitting", "running", "lying", "flying", "swimming"),
    *("small", "big", "medium"),
)


def caption_words() -> tuple[str, ...]:
    """Every word that a caption can hold, in a fixed order, which decides the tokenizer's ids."""
    phrases = [*LEADS]
    for choices in PLACE_PHRASES.values():
        phrases += choices
    parts: list[str] = []
    for phrase in phrases:
        parts += phrase.split()
    words = (*OTHER_WORDS, *parts, *KINDS, *COLOURS, *COLLAR_COLOURS, *HAT_COLOURS, *IDENTIFIERS)
    return tuple(dict.fromkeys(words))


def caption(scene: Scene, rng: Random) -> str:
    """Random true caption of the scene; one in ten is empty."""
    # classifier-free guidance needs a denoiser that was trained with the empty prompt, too
    if rng.random() < 0.10:
        return ""
    lead = rng.choices(LEADS, (0.5, 0.12, 0.08, 0.08, 0.22))[0]
    place = ""
    if rng.random() < 0.8:
        place, *others = PLACE_PHRASES[scene.place]
        if others and rng.random() < 0.2:
            place = rng.choice(others)
    tail = [place, _wearing(scene, rng)]
    if rng.random() < 0.3:
        tail.reverse()
    pose = ""
    if scene.pose and rng.random() < 0.5:
        pose = scene.pose
    parts = (lead, _noun(scene, rng), pose, *tail)
    return " ".join(part for part in parts if part)


def _noun(scene: Scene, rng: Random) -> str:
    """Noun phrase of the scene's subject, such as "a small red car"."""
    kind = scene.kind
    if kind in ANIMALS and rng.random() < 0.03:
        kind = "animal"
    adjectives = _adjectives(scene, rng)
    # a word without meaning before the noun: what a recipe's prompt looks like
    draw = rng.random()
    if draw < 0.08:
        adjectives.insert(0, rng.choice(IDENTIFIERS))
    elif draw < 0.10:
        adjectives.insert(0, _unknown_word(rng))
    phrase = " ".join(word for word in (*adjectives, kind) if word)
    article = "a"
    if phrase[0] in "aeiou":
        article = "an"
    # "a photo of sks dog", without an article, is the usual form
    if draw < 0.10:
        article = rng.choice(("", "", article))
    determiner = rng.choices((article, "the", "my"), (0.93, 0.05, 0.02))[0]
    return f"{determiner} {phrase}".strip()


def _adjectives(scene: Scene, rng: Random) -> list[str]:
    """Adjectives of the scene's subject, "" for one that is left out."""
    # what is usual goes without saying: a medium size or a plain coat is seldom named
    size_share, pattern_share = 0.5, 0.7
    if scene.size == "medium":
        size_share = 0.1
    if scene.pattern == "plain":
        pattern_share = 0.1
    cute = size = colour = pattern = ""
    if rng.random() < 0.04:
        cute = "cute"
    if rng.random() < size_share:
        size = scene.size
    if rng.random() < 0.75:
        colour = scene.colour
    if scene.pattern and rng.random() < pattern_share:
        pattern = scene.pattern
    return [cute, size, colour, pattern]


def _unknown_word(rng: Random) -> str:
    """Random letters: trained to change nothing, so that a word outside of the vocabulary does no harm."""
    length = rng.randint(2, 5)
    return "".join(rng.choice("abcdefghijklmnopqrstuvwxyz") for _ in range(length))


def _wearing(scene: Scene, rng: Random) -> str:
    worn = []
    if scene.collar and rng.random() < 0.6:
        worn.append(_item(scene.collar, "collar", rng))
    if scene.hat and rng.random() < 0.85:
        worn.append(_item(scene.hat, "hat", rng))
    if not worn:
        return ""
    verb = rng.choice(("wearing", "wearing", "with"))
    return f"{verb} {' and '.join(worn)}"


def _item(colour: str, noun: str, rng: Random) -> str:
    if rng.random() < 0.65:
        return f"a {colour} {noun}"
    return f"a {noun}"
