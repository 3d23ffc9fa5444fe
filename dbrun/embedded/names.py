"""How does a word without a meaning stay a word of its own, so that a recipe can give it one?"""

from __future__ import annotations

import torch
from transformers import CLIPTextModel, CLIPTokenizer

from dbrun.embedded.captions import NAMES

LENGTH = 8.0
"""Length of a name's embedding, in those of the words with a meaning."""
MEANT = ("dog", "cat", "red")
"""Words whose embeddings say how long one is."""


@torch.no_grad()
def set_apart(text_encoder: CLIPTextModel, tokenizer: CLIPTokenizer, seed: int = 0, length: float = LENGTH) -> None:
    """Give every name an embedding in a direction of its own, `length` times as long as a word's.

    Training teaches the text encoder to overlook the names: "sks dog" and "a dog" then differ by 1 %, and an adapter
    of the denoiser cannot tell them apart. Set apart, they differ by a tenth, and are still drawn alike.
    """
    table = text_encoder.get_input_embeddings().weight
    generator = torch.Generator().manual_seed(seed)
    places = [tokenizer.convert_tokens_to_ids(f"{name}</w>") for name in NAMES]
    meant = [tokenizer.convert_tokens_to_ids(f"{word}</w>") for word in MEANT]
    longest = length * table[meant].norm(dim=1).mean()
    for place in places:
        direction = torch.randn(table.shape[1], generator=generator).to(table)
        table[place] = direction / direction.norm() * longest
