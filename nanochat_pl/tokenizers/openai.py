"""OpenAI's encodings by name, as tiktoken has them: gpt2, cl100k_base (GPT-4's), o200k_base (GPT-4o's)."""

from typing import TYPE_CHECKING

from nanochat_pl.core.errors import MachineError, UserError
from nanochat_pl.tokenizers.bpe import BPETokenizer

if TYPE_CHECKING:
    import tiktoken

N_ORDINARY = {"gpt2": 50256, "r50k_base": 50256, "cl100k_base": 100256, "o200k_base": 199998}
"""Ordinary tokens of the encodings whose ids have no gap, so that a training can be planned before they are fetched."""


def openai_tokenizer(name: str) -> BPETokenizer:
    """The encoding of this name, with our special tokens; tiktoken fetches it, or takes it from its own cache.

    Raises:
        MachineError: it cannot be fetched.
    """
    import tiktoken

    try:
        encoding = tiktoken.get_encoding(name)
    except (OSError, ValueError) as error:  # what `requests` raises is an OSError; a wrong checksum a ValueError
        raise MachineError(
            f"tiktoken could not fetch the encoding {name}: {error}. Where there is no network, copy the folder that "
            f"`TIKTOKEN_CACHE_DIR=FOLDER python -m nanochat_pl tokenizer import {name} --out {name}` fills on another "
            "machine and set TIKTOKEN_CACHE_DIR here too, or choose a tokenizer that is trained on the data "
            "(tokenizer=bpe)."
        ) from error
    return tokenizer_of(encoding)


def tokenizer_of(encoding: "tiktoken.Encoding") -> BPETokenizer:
    """A tokenizer that encodes ordinary text as `encoding` does; its special tokens are nanochat-pl's.

    They follow the ordinary ones. So our BOS has the id of GPT-2's <|endoftext|>; cl100k_base and o200k_base leave a
    gap before theirs, and those ids are ours here.

    Raises:
        UserError: the ids of its ordinary tokens have gaps.
    """
    ranks = dict(sorted(encoding._mergeable_ranks.items(), key=lambda item: item[1]))
    if list(ranks.values()) != list(range(len(ranks))):
        raise UserError(f"The ids of {encoding.name} have gaps; such an encoding cannot be used.")
    return BPETokenizer(ranks, encoding._pat_str)
