"""Tokenizers and text encoders of the tiny bases, made without any file or network."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any


def byte_tokenizer(**marks: str) -> Any:
    """CLIP tokenizer of single bytes: 256 symbols, each once more for a word's end, two marks, no merges.

    marks: marks that differ from CLIP's own, such as pad_token.
    """
    from tokenizers.pre_tokenizers import ByteLevel
    from transformers import CLIPTokenizer

    letters = sorted(ByteLevel.alphabet())
    entries = [*letters, *(letter + "</w>" for letter in letters), "<|startoftext|>", "<|endoftext|>"]
    return CLIPTokenizer(vocab={entry: i for i, entry in enumerate(entries)}, merges=[], model_max_length=77, **marks)


def tiny_clip(tokenizer: Any, width: int, projection: int | None = None) -> Any:
    """CLIP text encoder of two layers for a tokenizer of `byte_tokenizer`.

    width: numbers per token; projection: numbers of its pooled state, None for a text encoder without projection.
    """
    from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection

    config: dict[str, Any] = {
        "vocab_size": len(tokenizer), "hidden_size": width, "intermediate_size": 64, "num_hidden_layers": 2,
        "num_attention_heads": 4, "max_position_embeddings": 77, "bos_token_id": tokenizer.bos_token_id,
        "eos_token_id": tokenizer.eos_token_id, "pad_token_id": tokenizer.pad_token_id}
    if projection is None:
        return CLIPTextModel(CLIPTextConfig(**config))
    return CLIPTextModelWithProjection(CLIPTextConfig(**config, projection_dim=projection))


def letter_tokenizer(length: int) -> Any:
    """T5 tokenizer of single ASCII characters, each also as a word's beginning. length: its `model_max_length`."""
    from string import ascii_letters, digits, punctuation

    from transformers import T5Tokenizer

    letters = sorted(digits + ascii_letters + punctuation)
    marks = [(mark, 0.0) for mark in ("<pad>", "</s>", "<unk>")]
    inner = [(letter, -3.0) for letter in letters]
    # sentencepiece marks a word's beginning with ▁
    initial = [(f"▁{letter}", -3.0) for letter in letters]
    entries = [("▁", -2.0), *inner, *initial]
    return T5Tokenizer(vocab=marks + entries, extra_ids=0, model_max_length=length)


def tiny_t5(words: int) -> Any:
    """T5 encoder of 24 numbers per token. words: size of its vocabulary."""
    from transformers import T5Config, T5EncoderModel

    return T5EncoderModel(T5Config(vocab_size=words, d_model=24, d_kv=8, d_ff=32, num_layers=2, num_heads=3,
                                   feed_forward_proj="gated-gelu"))


def chat_tokenizer(words: Sequence[str] = ("user",)) -> Any:
    """Qwen2 tokenizer of single bytes with Qwen3's chat template for one message. words: those that are one token.

    A word may begin with its space.
    """
    from tokenizers.pre_tokenizers import ByteLevel
    from transformers import Qwen2Tokenizer

    merges: dict[tuple[str, str], None] = {}
    for word in words:
        # the byte of a space is written as this letter
        letters = word.replace(" ", "Ġ")
        for end in range(1, len(letters)):
            merges[letters[:end], letters[end]] = None
    entries = [*sorted(ByteLevel.alphabet()), *(left + right for left, right in merges)]
    template = ("{% for message in messages %}<|im_start|>{{ message.role }}\n{{ message.content }}<|im_end|>\n"
                "{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n"
                "{% if enable_thinking is false %}<think>\n\n</think>\n\n{% endif %}{% endif %}")
    return Qwen2Tokenizer(vocab={entry: i for i, entry in enumerate(entries)}, merges=list(merges),
                          chat_template=template, additional_special_tokens=["<|im_start|>", "<|im_end|>"],
                          model_max_length=131072)


def tiny_qwen3(words: int, layers: int) -> Any:
    """Config of a Qwen3 of 24 numbers per token. words: size of its vocabulary."""
    from transformers import Qwen3Config

    return Qwen3Config(vocab_size=words, hidden_size=24, intermediate_size=32, num_hidden_layers=layers,
                       num_attention_heads=3, num_key_value_heads=1, head_dim=8, max_position_embeddings=512,
                       tie_word_embeddings=True)
