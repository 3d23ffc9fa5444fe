"""Do captions tell the truth about their scene, and vary as training needs?"""

from random import Random

from dbrun.embedded.making.animals import ANIMALS
from dbrun.embedded.making.captions import IDENTIFIERS, PLACE_PHRASES, caption, caption_words
from dbrun.embedded.making.tokenizer import MAX_LENGTH
from dbrun.embedded.making.world import COLOURS, KINDS, random_scene

PAIRS = [(random_scene(seed), caption(random_scene(seed), Random(seed))) for seed in range(4000)]


def test_a_caption_names_no_class_but_the_scenes_own() -> None:
    for scene, text in PAIRS:
        named = set(text.split()) & {*KINDS, "animal"}
        assert named <= {scene.kind} | ({"animal"} if scene.kind in ANIMALS else set())


def test_a_caption_names_no_place_but_the_scenes_own() -> None:
    for scene, text in PAIRS:
        for place, phrases in PLACE_PHRASES.items():
            if place != scene.place:
                assert not any(f" {phrase} " in f" {text} " for phrase in phrases), (text, place)


def test_every_colour_word_belongs_to_the_figure_or_to_what_it_wears() -> None:
    for scene, text in PAIRS:
        told = text.split()
        for place, word in enumerate(told):
            if word in COLOURS:
                after = told[place + 1 :]
                owner = next(thing for thing in after if thing in {*KINDS, "animal", "hat", "collar"})
                assert word == {"hat": scene.hat, "collar": scene.collar}.get(owner, scene.colour), text


def test_poses_sizes_patterns_and_clothes_are_the_scenes_own() -> None:
    for scene, text in PAIRS:
        told = set(text.split())
        for named, own in (
            ({"standing", "sitting", "running", "lying", "flying", "swimming"}, scene.pose),
            ({"small", "medium", "big"}, scene.size),
            ({"plain", "spotted", "striped", "patched"}, scene.pattern),
            ({"hat"}, "hat" if scene.hat else None),
            ({"collar"}, "collar" if scene.collar else None),
        ):
            assert told & named <= {own}, text


def test_about_one_caption_in_ten_is_empty_and_one_in_twelve_has_a_meaningless_name() -> None:
    texts = [text for _, text in PAIRS]
    named = [text for text in texts if set(text.split()) & set(IDENTIFIERS)]
    assert 0.08 < texts.count("") / len(texts) < 0.12
    assert 0.05 < len(named) / len(texts) < 0.10


def test_the_name_goes_with_every_class_so_that_it_means_none() -> None:
    kinds = {kind for _, text in PAIRS if "sks" in text.split() for kind in KINDS if kind in text.split()}
    assert kinds == set(KINDS)


def test_the_same_scene_is_told_in_many_ways_and_the_same_random_numbers_tell_the_same() -> None:
    scene = random_scene(7)
    rng = Random(0)
    assert len({caption(scene, rng) for _ in range(200)}) > 50
    assert caption(scene, Random(4)) == caption(scene, Random(4))


def test_captions_fit_the_tokenizer_and_its_word_list() -> None:
    known = set(caption_words())
    for _, text in PAIRS:
        told = text.split()
        assert len(told) + 2 <= MAX_LENGTH
        assert len([word for word in told if word not in known]) <= 1
