"""Is a name a word of its own, and does nothing else change?"""

import torch

from dbrun.embedded.architecture import TINY, build_text_encoder
from dbrun.embedded.captions import NAMES, words
from dbrun.embedded.names import LENGTH, set_apart
from dbrun.embedded.tokenizer import build_tokenizer


def test_names_get_long_embeddings_of_their_own_and_other_words_keep_theirs() -> None:
    tokenizer = build_tokenizer(words())
    encoder = build_text_encoder(TINY, tokenizer)
    before = encoder.get_input_embeddings().weight.detach().clone()
    set_apart(encoder, tokenizer)
    after = encoder.get_input_embeddings().weight.detach()
    places = [tokenizer.convert_tokens_to_ids(f"{name}</w>") for name in NAMES]
    others = [i for i in range(len(before)) if i not in places]
    assert torch.equal(before[others], after[others])
    lengths = after[places].norm(dim=1)
    dog = before[tokenizer.convert_tokens_to_ids("dog</w>")].norm()
    assert torch.all(lengths > LENGTH / 2 * dog) and torch.allclose(lengths, lengths[0].expand(len(NAMES)))
    near = torch.nn.functional.cosine_similarity(after[places][:, None], after[places][None], dim=-1)
    assert torch.all(near.fill_diagonal_(0.0) < 0.9)
