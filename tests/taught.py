"""Small real models that were taught what to say, for tests of everything that talks."""

from pathlib import Path
from typing import Any

import torch

from nanochat_pl.checkpoint.model_folder import save_model_folder
from nanochat_pl.core.types import IGNORE_INDEX
from nanochat_pl.models.contract import build_model
from nanochat_pl.models.depth import NanoChatSpec
from nanochat_pl.tokenizers.chat import Rendered, render_conversation
from nanochat_pl.tokenizers.specs import ByteSpec

BYTE = ByteSpec().build()

CALL = [
    {"type": "text", "text": "It is "},
    {"type": "python", "text": "12*7"},
    {"type": "python_output", "text": "84"},
    {"type": "text", "text": "84."},
]


def conversation(*contents: Any) -> list[dict[str, Any]]:
    """Messages by user and assistant in turn."""
    return [{"role": ("user", "assistant")[i % 2], "content": content} for i, content in enumerate(contents)]


LESSONS = [
    conversation("What is 12*7?", CALL, "Thanks", "You are welcome."),
    conversation("My name is Ada", "Hi Ada.", "What is my name?", "Ada."),
    conversation("What is my name?", "I do not know."),
]
SONG = "la la \x1b[31mred\x07 "


def save_taught_model(folder: Path, sequence_len: int = 256) -> None:
    """Write the folder of a chat model that knows LESSONS by heart; its tokenizer is that of bytes."""
    save_model_that_says(folder, [render_conversation(BYTE, lesson) for lesson in LESSONS], sequence_len, "sft")


def save_singing_model(folder: Path) -> None:
    """Write the folder of a base model that sings SONG, with its control characters, and never ends."""
    ids = [BYTE.bos_id, *BYTE.encode(6 * SONG)]
    save_model_that_says(folder, [Rendered(ids, [0] + [1] * (len(ids) - 1))], 64, "base")


def save_model_that_says(folder: Path, lessons: list[Rendered], sequence_len: int = 256, stage: str = "sft") -> None:
    """Write the folder of a model that knows by heart what its lessons mark."""
    spec = NanoChatSpec(depth=2, n_embd=64, head_dim=16, sequence_len=sequence_len, window_pattern="L")
    config = spec.config(BYTE.vocab_size)
    model = build_model(config, "cpu", seed=0)
    shape = len(lessons), max(len(lesson.ids) for lesson in lessons)
    ids, targets = torch.full(shape, BYTE.bos_id), torch.full(shape, IGNORE_INDEX)
    for row, lesson in enumerate(lessons):
        ids[row, : len(lesson.ids)] = torch.tensor(lesson.ids)
        learned = [token if mask else IGNORE_INDEX for token, mask in zip(lesson.ids, lesson.mask)]
        targets[row, : len(lesson.ids) - 1] = torch.tensor(learned[1:])
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    for _ in range(400):
        loss = model(ids, targets) / (targets != IGNORE_INDEX).sum()
        if loss.item() < 0.01:
            break
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert loss.item() < 0.01, "it did not learn its lessons"
    save_model_folder(folder, model, config, BYTE, {"step": 3}, stage)
