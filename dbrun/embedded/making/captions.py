"""How a scene is put into words: a new caption at each call, with attributes left out at random."""

from __future__ import annotations

from collections.abc import Mapping
from random import Random

from dbrun.embedded.making.animals import ANIMALS
from dbrun.embedded.making.world import COLLAR_COLOURS, COLOURS, HAT_COLOURS, KINDS, Scene

IDENTIFIERS = ("sks", "zwx", "ohwx", "mnv")
"""Words without a meaning, trained as such, so that a recipe can give one of them a meaning."""
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
"""What a place may be called; the first is its usual name."""
OTHER_WORDS = (
    *("a", "an", "the", "my", "and", "with", "wearing", "hat", "collar", "cute", "plain", "animal", "style"),
    *("spotted", "striped", "patched", "standing", "sitting", "running", "lying", "flying", "swimming"),
    *("small", "big", "medium"),
)


def caption_words() -> tuple[str, ...]:
    """Every word a caption can hold, in a fixed order."""
    phrases = (*LEADS, *(phrase for choices in PLACE_PHRASES.values() for phrase in choices))
    parts = (word for phrase in phrases for word in phrase.split())
    return tuple(dict.fromkeys((*OTHER_WORDS, *parts, *KINDS, *COLOURS, *COLLAR_COLOURS, *HAT_COLOURS, *IDENTIFIERS)))


def caption(scene: Scene, rng: Random) -> str:
    """One of the many true captions of the scene; one in ten is empty, which guidance needs."""
    if rng.random() < 0.10:
        return ""
    lead = rng.choices(LEADS, (0.5, 0.12, 0.08, 0.08, 0.22))[0]
    place = ""
    if rng.random() < 0.8:
        usual, *others = PLACE_PHRASES[scene.place]
        place = rng.choice(others) if others and rng.random() < 0.2 else usual
    tail = [place, _wearing(scene, rng)]
    if rng.random() < 0.3:
        tail.reverse()
    pose = scene.pose if scene.pose and rng.random() < 0.5 else ""
    return " ".join(part for part in (lead, _noun(scene, rng), pose, *tail) if part)


def _noun(scene: Scene, rng: Random) -> str:
    kind = "animal" if scene.kind in ANIMALS and rng.random() < 0.03 else scene.kind
    adjectives = [
        "cute" if rng.random() < 0.04 else "",
        scene.size if rng.random() < (0.1 if scene.size == "medium" else 0.5) else "",
        _colour(scene, rng),
        scene.pattern if scene.pattern and rng.random() < (0.1 if scene.pattern == "plain" else 0.7) else "",
    ]
    draw = rng.random()
    if draw < 0.08:
        adjectives.insert(0, rng.choice(IDENTIFIERS))
    elif draw < 0.10:
        adjectives.insert(0, _unknown_word(rng))
    phrase = " ".join(word for word in (*adjectives, kind) if word)
    article = "an" if phrase[0] in "aeiou" else "a"
    if draw < 0.10:
        article = rng.choice(("", "", article))
    return f"{rng.choices((article, 'the', 'my'), (0.93, 0.05, 0.02))[0]} {phrase}".strip()


def _colour(scene: Scene, rng: Random) -> str:
    return scene.colour if rng.random() < 0.75 else ""


def _unknown_word(rng: Random) -> str:
    """Letters that mean nothing, so that a word outside of the list does not upset the model."""
    return "".join(rng.choice("abcdefghijklmnopqrstuvwxyz") for _ in range(rng.randint(2, 5)))


def _wearing(scene: Scene, rng: Random) -> str:
    worn = []
    if scene.collar and rng.random() < 0.6:
        worn.append(_item(scene.collar, "collar", rng))
    if scene.hat and rng.random() < 0.85:
        worn.append(_item(scene.hat, "hat", rng))
    if not worn:
        return ""
    return f"{rng.choice(('wearing', 'wearing', 'with'))} {' and '.join(worn)}"


def _item(colour: str, noun: str, rng: Random) -> str:
    return f"a {colour} {noun}" if rng.random() < 0.65 else f"a {noun}"
