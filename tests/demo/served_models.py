"""Small models for tests of serving, whose answers are known: what follows a token depends on that token alone."""

import json
import shutil
from pathlib import Path

import torch

from nanochat_pl.checkpoint.model_folder import save_model_folder
from nanochat_pl.models.contract import build_model
from nanochat_pl.models.nanochat import NanoChat, NanoChatConfig
from nanochat_pl.tokenizers.char import CharTokenizer
from tests.models.test_nanochat import randomized

LETTERS = "abcdefghijklmnopqrstuvwxyz "
TOKENIZER = CharTokenizer("\n" + "".join(map(chr, range(32, 127))) + "é€")
ALPHABET = {
    **dict(zip(LETTERS, LETTERS[1:] + LETTERS[0])),
    **dict.fromkeys(TOKENIZER.characters[:66], "a"),
    "<|assistant_start|>": "a",
    "<|bos|>": "a",
}
"""Says the alphabet again and again, from the last letter on that it has read."""
SUM = {
    "<|assistant_start|>": "H", "H": "m", "m": ":", ":": "<|python_start|>", "<|python_start|>": "1", "1": "+",
    "+": "2", "2": "<|python_end|>", "<|output_end|>": "!", "!": "<|assistant_end|>",
}  # fmt: skip
"""Says "Hm:", has a sum computed, says "!" and ends."""


def token_id(token: str) -> int:
    return TOKENIZER.special_tokens[token] if token.startswith("<|") else TOKENIZER.encode(token)[0]


def save_model(folder: Path, following: dict[str, str], context_tokens: int, stage: str = "sft", step: int = 1) -> None:
    """A model folder of a model that says what `following` tells; whatever is not in it is followed by "?"."""
    config = NanoChatConfig(
        vocab_size=TOKENIZER.vocab_size, sequence_len=context_tokens, n_layer=2, n_head=2, n_kv_head=1, n_embd=128,
        window_pattern="SL", short_window=16,
    )  # fmt: skip
    model = build_model(config, "cpu", seed=0)  # its blocks add nothing before they are trained
    with torch.no_grad():
        model.embedding.weight.zero_()
        model.head.weight.zero_()
        for id in range(TOKENIZER.vocab_size):
            model.embedding.weight[id, id] = 1.0
            model.head.weight[token_id("?"), id] = 1.0
        for token, next_token in following.items():
            model.head.weight[token_id("?"), token_id(token)] = 0.1
            model.head.weight[token_id(next_token), token_id(token)] = 1.0
    save_model_folder(folder, model, config, TOKENIZER, {"step": step, "val_bpb": 1.25}, stage)


def lengthened(folder: Path, copy: Path, long_window: int) -> Path:
    """A copy of a model folder that looks further back than it was trained to."""
    shutil.copytree(folder, copy)
    header = json.loads((copy / "model.json").read_text())
    header["config"]["long_window"] = long_window
    (copy / "model.json").write_text(json.dumps(header))
    return copy


def save_random_model(folder: Path, context_tokens: int) -> NanoChat:
    """A base model whose next token depends on all tokens before; what it says only a full forward tells."""
    config = NanoChatConfig(
        vocab_size=TOKENIZER.vocab_size, sequence_len=context_tokens, n_layer=3, n_head=4, n_kv_head=2, n_embd=64,
        window_pattern="SL", short_window=7,
    )  # fmt: skip
    model = randomized(config)
    save_model_folder(folder, model, config, TOKENIZER, {"step": 1}, "base")
    return model.eval()


def alphabet(start: str, length: int) -> str:
    """What the alphabet's model says after `start`."""
    first = LETTERS.find(start[-1]) + 1 if start else 0
    return "".join(LETTERS[(first + i) % len(LETTERS)] for i in range(length))
