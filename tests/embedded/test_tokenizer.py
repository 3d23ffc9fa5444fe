"""Is the tokenizer a real CLIP tokenizer in which every word of the world is one token?"""

import pytest
from transformers import CLIPTokenizer

from dbrun.embedded.making.captions import caption_words
from dbrun.embedded.making.tokenizer import MAX_LENGTH, apply_merges, build_tokenizer, learn_merges


@pytest.fixture(scope="module")
def reloaded(tmp_path_factory: pytest.TempPathFactory) -> CLIPTokenizer:
    folder = tmp_path_factory.mktemp("tokenizer")
    build_tokenizer(caption_words()).save_pretrained(folder)
    return CLIPTokenizer.from_pretrained(folder)


def test_a_reloaded_tokenizer_is_whole(reloaded: CLIPTokenizer) -> None:
    assert len(reloaded) == 512 + len(learn_merges(caption_words())) + 2
    assert reloaded.model_max_length == MAX_LENGTH


def test_every_word_of_the_world_is_one_token_of_its_own(reloaded: CLIPTokenizer) -> None:
    tokens = [reloaded(word)["input_ids"] for word in caption_words()]
    assert all(len(ids) == 3 for ids in tokens)
    assert len({ids[1] for ids in tokens}) == len(caption_words())


@pytest.mark.parametrize(
    "prompt",
    [
        "a photo of sks dog",
        "a photo of a dog",
        "a photo of sks dog on the moon",
        "a photo of sks dog wearing a hat",
        "an orange cat sitting in a room",
    ],
)
def test_what_people_type_is_one_token_a_word(reloaded: CLIPTokenizer, prompt: str) -> None:
    assert len(reloaded(prompt)["input_ids"]) == len(prompt.split()) + 2


def test_capitals_and_unknown_words_are_read(reloaded: CLIPTokenizer) -> None:
    assert reloaded("A Photo")["input_ids"] == reloaded("a photo")["input_ids"]
    unknown = reloaded("xylophone")["input_ids"]
    assert 3 < len(unknown) <= 11
    assert reloaded.unk_token_id not in unknown[1:-1]


def test_padding_fills_to_the_models_length_and_long_prompts_are_cut(reloaded: CLIPTokenizer) -> None:
    for prompt in ("", "dog " * 100):
        ids = reloaded(prompt, padding="max_length", truncation=True)["input_ids"]
        assert len(ids) == MAX_LENGTH and ids[0] == reloaded.bos_token_id and ids[-1] == reloaded.eos_token_id


def test_later_words_do_not_break_earlier_ones() -> None:
    listed = ["in", "sitting", "tin", "inn", "sin", "sits"]
    merges = learn_merges(listed)
    assert [apply_merges(word, merges) for word in listed] == [[f"{word}</w>"] for word in listed]
