"""Is a name a word of its own, and does nothing else change?"""

import pytest
import torch

from dbrun.embedded.making.architecture import TINY, build_text_encoder, build_unet
from dbrun.embedded.making.captions import IDENTIFIERS, caption_words
from dbrun.embedded.making.names import MAX_CHANGE, NAME_NORM, _best_candidate, reset_identifiers, separate_identifiers
from dbrun.embedded.making.tokenizer import build_tokenizer


@pytest.mark.slow
def test_names_get_long_embeddings_of_their_own_and_other_words_keep_theirs() -> None:
    tokenizer = build_tokenizer(caption_words())
    encoder = build_text_encoder(TINY, tokenizer)
    before = encoder.get_input_embeddings().weight.detach().clone()
    separate_identifiers(build_unet(TINY), encoder, tokenizer)
    after = encoder.get_input_embeddings().weight.detach()
    places = [tokenizer.convert_tokens_to_ids(f"{name}</w>") for name in IDENTIFIERS]
    others = [i for i in range(len(before)) if i not in places]
    assert torch.equal(before[others], after[others])
    lengths = after[places].norm(dim=1)
    dog = before[tokenizer.convert_tokens_to_ids("dog</w>")].norm()
    assert torch.all(lengths > NAME_NORM / 2 * dog) and torch.allclose(lengths, lengths[0].expand(len(IDENTIFIERS)))
    near = torch.nn.functional.cosine_similarity(after[places][:, None], after[places][None], dim=-1)
    assert torch.all(near.fill_diagonal_(0.0) < 0.9)


def test_ordinary_names_are_as_long_as_words() -> None:
    tokenizer = build_tokenizer(caption_words())
    encoder = build_text_encoder(TINY, tokenizer)
    reset_identifiers(encoder, tokenizer)
    table = encoder.get_input_embeddings().weight
    lengths = {word: float(table[tokenizer.convert_tokens_to_ids(f"{word}</w>")].norm().detach())
               for word in (*IDENTIFIERS, "dog", "cat", "red")}
    usual = (lengths["dog"] + lengths["cat"] + lengths["red"]) / 3
    assert all(abs(lengths[name] - usual) < 1e-3 * usual for name in IDENTIFIERS)


def test_the_best_read_direction_is_taken_unless_it_changes_what_is_drawn(monkeypatch) -> None:
    """Readings stand for themselves here: what is drawn from a reading is the reading."""
    monkeypatch.setattr("dbrun.embedded.making.names._predictions", lambda unet, states: states)
    before = torch.ones(3, 4)
    fish, faint, read = before * 2, before * (1 + MAX_CHANGE / 10), before * (1 + MAX_CHANGE / 2)
    assert _best_candidate(None, [fish, faint, read], [0.9, 0.1, 0.5], before) == 2
    assert _best_candidate(None, [fish, fish * 2], [0.1, 0.9], before) == 0, "none is neutral: the nearest to it"
