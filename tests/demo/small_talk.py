"""A chat model that has learned a few answers by heart, in seconds: a real one, for what is shown of its answers."""

from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from nanochat_pl.checkpoint.model_folder import save_model_folder
from nanochat_pl.core.types import IGNORE_INDEX
from nanochat_pl.models.contract import build_model
from nanochat_pl.models.nanochat import NanoChatConfig
from nanochat_pl.tokenizers.byte import ByteTokenizer
from nanochat_pl.tokenizers.chat import render_conversation

MARKUP = '<img src=x onerror="hacked=1"> & <b>bold</b> <|bos|>'
ANSWERS: dict[str, Any] = {
    "What is 123 plus 45?": [
        {"type": "python", "text": "123+45"},
        {"type": "python_output", "text": "168"},
        {"type": "text", "text": "It is 168."},
    ],
    "Say something in markup": MARKUP,
    "Make a list": "# Fruit\n\n1. an *apple*\n2. a **pear**\n\n```\nx = 5*3*2\n```\nSee `x`.",
    "Hello": "Hello! How are you?",
}
"""What it says to a first message when it always takes the likeliest token."""


def save_small_talk(folder: Path) -> None:
    """Train it and write its model folder; its context is 256 tokens."""
    tokenizer = ByteTokenizer()
    config = NanoChatConfig(
        vocab_size=tokenizer.vocab_size, sequence_len=256, n_layer=3, n_head=2, n_kv_head=2, n_embd=64
    )
    model = build_model(config, device="cpu", seed=0)
    ids, mask = _learned(tokenizer)
    targets = ids[:, 1:].masked_fill(mask[:, 1:] == 0, IGNORE_INDEX)
    optimizer = torch.optim.Adam(model.parameters(), lr=3e-3)
    worst = float("inf")
    for _ in range(500):
        losses = model(ids[:, :-1], targets, reduction="none")
        worst = losses.max().item()
        if worst < 0.05:
            break
        optimizer.zero_grad()
        (losses.sum() / mask.sum()).backward()
        optimizer.step()
    assert worst < 0.05, f"a token still has the loss {worst}"
    save_model_folder(folder, model, config, tokenizer, {"step": 500, "val_bpb": 0.912}, stage="sft")


def _learned(tokenizer: ByteTokenizer) -> tuple[Tensor, Tensor]:
    """The conversations as rows of ids, and which of them the model is to say."""
    conversations = [
        [{"role": "user", "content": question}, {"role": "assistant", "content": answer}]
        for question, answer in ANSWERS.items()
    ]
    rows = [render_conversation(tokenizer, messages) for messages in conversations]
    longest = max(len(row.ids) for row in rows)
    ids = [row.ids + [tokenizer.bos_id] * (longest - len(row.ids)) for row in rows]
    mask = [row.mask + [0] * (longest - len(row.mask)) for row in rows]
    return torch.tensor(ids), torch.tensor(mask)
