"""Continuing prompts: one prefill of all of them, then one token a row at a time."""

from collections.abc import Collection, Iterator, Sequence
from typing import Any

import torch

from nanochat_pl.core.errors import UserError
from nanochat_pl.inference.sampling import sample


def generate(
    model: Any,
    prompts: Sequence[Sequence[int]],
    max_new_tokens: int,
    temperature: float = 1.0,
    top_k: int | None = None,
    seed: int = 0,
    stop_ids: Collection[int] = (),
) -> list[list[int]]:
    """The continuation of each prompt, without the prompt and without the id that stopped it; see `stream`."""
    continuations: list[list[int]] = [[] for _ in prompts]
    for column in stream(model, prompts, max_new_tokens, temperature, top_k, seed, stop_ids):
        for continuation, token in zip(continuations, column):
            if token is not None:
                continuation.append(token)
    return continuations


def stream(
    model: Any,
    prompts: Sequence[Sequence[int]],
    max_new_tokens: int,
    temperature: float = 1.0,
    top_k: int | None = None,
    seed: int = 0,
    stop_ids: Collection[int] = (),
) -> Iterator[list[int | None]]:
    """Yields the next token of every prompt, together; None for a row that has stopped.

    Args:
        model: a `models.contract.LanguageModel`.
        prompts: token ids, of different lengths; at least one token each (begin a text with BOS).
        temperature: 0 takes the likeliest token.
        top_k: choose among the k likeliest; None: among all.
        stop_ids: tokens that end their row; they are not yielded.

    Raises:
        UserError: an empty prompt, or a temperature, top_k or max_new_tokens out of range.
    """
    _check(prompts, max_new_tokens, temperature, top_k)
    lengths = [len(prompt) for prompt in prompts]
    padded = [[*prompt, *([0] * (max(lengths) - len(prompt)))] for prompt in prompts]
    running = [True] * len(prompts)
    # Not a decorator and never around a yield: the caller's own code must not run in inference mode.
    with torch.inference_mode():
        cache = model.build_cache(len(prompts), max(lengths) + max_new_tokens)
        device = cache.keys[0].device
        generator = torch.Generator(device).manual_seed(seed)
        ids = torch.tensor(padded, device=device)
    for step in range(max_new_tokens):
        with torch.inference_mode():
            if step == 0:
                logits = model.forward(ids, cache=cache, lengths=lengths, last_only=True)
                decode = model.build_decoder()
            else:
                logits = decode(ids, cache)
            ids = sample(logits[:, 0], temperature, top_k, generator).unsqueeze(1)
            column = ids[:, 0].tolist()
        running = [run and token not in stop_ids for run, token in zip(running, column)]
        if not any(running):
            return
        yield [token if run else None for run, token in zip(running, column)]


def _check(prompts: Sequence[Sequence[int]], max_new_tokens: int, temperature: float, top_k: int | None) -> None:
    if not prompts or not all(prompts):
        raise UserError("A prompt has no tokens; begin it at least with the BOS token.")
    if max_new_tokens < 0:
        raise UserError(f"max_new_tokens is {max_new_tokens}; it must be at least 0.")
    if temperature < 0:
        raise UserError(f"temperature is {temperature}; it must be at least 0 (0 takes the likeliest token).")
    if top_k is not None and top_k < 1:
        raise UserError(f"top_k is {top_k}; it must be at least 1, or null to choose among all tokens.")
