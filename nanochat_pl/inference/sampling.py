"""Choosing the next token from logits."""

import torch
from torch import Tensor


def sample(logits: Tensor, temperature: float, top_k: int | None, generator: torch.Generator | None) -> Tensor:
    """Token ids (B,) drawn from softmax(logits / temperature), among the `top_k` likeliest if it is given.

    Args:
        logits: (B, V).
        temperature: 0 takes the likeliest token.
        generator: on the device of the logits.
    """
    if temperature == 0:
        return logits.argmax(dim=-1)
    if top_k is None or top_k >= logits.size(-1):
        return torch.multinomial(torch.softmax(logits / temperature, dim=-1), 1, generator=generator).squeeze(-1)
    values, ids = logits.topk(top_k, dim=-1)
    choice = torch.multinomial(torch.softmax(values / temperature, dim=-1), 1, generator=generator)
    return ids.gather(-1, choice).squeeze(-1)
