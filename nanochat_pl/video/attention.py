"""The attention weights of a prompt, recomputed plainly beside the model and checked against what it computes."""

import math
from typing import Any

import torch
from torch import Tensor

from nanochat_pl.checkpoint.model_folder import LoadedModel
from nanochat_pl.core.errors import UserError
from nanochat_pl.nn.attention.backend import Backend, share_heads
from nanochat_pl.tokenizers.base import Tokenizer
from nanochat_pl.tokenizers.chat import render_for_completion
from nanochat_pl.video.scene import Scene, rounded, scene

MOST_TOKENS = 40
"""More columns than these cannot be told from each other."""
PROMPT = "One sunny morning, Alice and Tom went to the market. Alice"
NEXT = 5


class Watching(Backend):
    """Another backend's answers, with the weights behind them.

    Attributes:
        windows, weights: of the layers, in their order; weights (H, T, T) float32.
    """

    def __init__(self, inner: Backend):
        super().__init__(inner.slopes)
        self.inner = inner
        self.windows: list[int] = []
        self.weights: list[Tensor] = []

    def see(self, *arguments: Any) -> dict[int, Any]:
        return self.inner.see(*arguments)

    def attend(self, q: Tensor, k: Tensor, v: Tensor, window: int, scale: float, seen: Any) -> Tensor:
        y = self.inner.attend(q, k, v, window, scale, seen)
        weights = attention_weights(q, k, window, scale, self.slopes)
        plain = weights @ share_heads(q, k, v)[1].float()
        assert torch.allclose(plain, y.float(), atol=1e-4 if y.dtype == torch.float32 else 5e-2), "other weights"
        self.windows.append(window)
        self.weights.append(weights[0])
        return y


def attention_weights(q: Tensor, k: Tensor, window: int, scale: float, slopes: Tensor | None = None) -> Tensor:
    """softmax(q k^T scale - slope x distance) over what is seen: each token itself and `window` tokens before it.

    Args:
        q, k: (B, H, T, D) and (B, H_kv, T, D).
        slopes: (H,) of ALiBi.

    Returns:
        (B, H, T, T) float32
    """
    keys, _ = share_heads(q, k, k)
    places = torch.arange(q.size(2), device=q.device)
    distance = places[:, None] - places[None]
    unseen = (distance < 0) | (distance > window)
    scores = q.float() @ keys.float().transpose(2, 3) * scale
    if slopes is not None:
        scores = scores - slopes[:, None, None] * distance
    return scores.masked_fill(unseen, -math.inf).softmax(dim=-1)


@torch.inference_mode()
def watch(model: Any, ids: list[int]) -> tuple[Watching, Tensor]:
    """The weights of all layers for a row of ids, and the logits (vocab_size,) after it."""
    watching = Watching(model.attention)
    try:
        model.use_attention(watching)
        logits = model.forward(torch.tensor([ids], device=next(model.parameters()).device), last_only=True)
    finally:
        model.use_attention(watching.inner)
    return watching, logits[0, -1].float()


def attention_scene(loaded: LoadedModel, name: str, prompt: str) -> Scene:
    """Of what a model reads; a chat model reads the prompt as a question to it.

    Raises:
        UserError: the prompt is empty, or too long for the model or for the picture.
    """
    config, tokenizer = loaded.model.config, loaded.tokenizer
    ids = _ids(loaded, prompt)
    if len(ids) > config.sequence_len:
        raise UserError(
            f"The prompt has {len(ids)} tokens, but the model's context has only {config.sequence_len}. Shorten it."
        )
    if len(ids) > MOST_TOKENS:
        raise UserError(
            f"The prompt has {len(ids)} tokens; at most {MOST_TOKENS} can be told apart in a picture. Shorten it."
        )
    watching, logits = watch(loaded.model, ids)
    chances, likeliest = logits.softmax(-1).topk(min(NEXT, len(logits)))
    layers = [
        {"window": window, "heads": [_lower(head) for head in weights]}
        for window, weights in zip(watching.windows, watching.weights)
    ]
    return scene(
        "attention",
        name,
        stage=loaded.stage,
        context=config.sequence_len,
        prompt=prompt,
        tokens=[token_text(tokenizer, token) for token in ids],
        layers=layers,
        shown=telling_heads(watching.weights),
        next=[
            {"token": token_text(tokenizer, int(token)), "probability": rounded(float(chance))}
            for token, chance in zip(likeliest, chances)
        ],
    )


def own_prompt(loaded: LoadedModel) -> str:
    """A prompt for who gives none: of one sentence as many words as can be drawn."""
    words, most = PROMPT.split(), min(MOST_TOKENS, loaded.model.config.sequence_len)
    while len(words) > 1 and len(_ids(loaded, " ".join(words))) > most:
        words.pop()
    return " ".join(words)


def telling_heads(weights: list[Tensor]) -> list[dict[str, Any]]:
    """The heads that do one thing most of all, with what share of their attention; each head once.

    sink: to the first token (which no other query than itself must see); previous: to the token before; self: to the
    token itself; far: to tokens 4 or more before, but not the first; broad: how many tokens a query spreads over,
    exp(entropy), as a share of what it sees.
    """
    stacked = torch.stack(weights)  # (L, H, T, T)
    T = stacked.size(-1)
    if T < 6:
        return []
    queries = stacked[..., 2:, :]  # before them, the token before is the first
    rows = torch.arange(2, T)
    before = rows[:, None] - torch.arange(T)[None]
    is_far = (before >= 4) & (torch.arange(T) > 0)
    entropy = torch.special.entr(queries).sum(-1)
    seen = torch.count_nonzero(queries > 0, dim=-1)
    shares = {
        "sink": queries[..., 0].mean(-1),
        "previous": queries.gather(-1, (rows - 1).expand(*queries.shape[:2], T - 2)[..., None]).mean((-1, -2)),
        "self": queries.gather(-1, rows.expand(*queries.shape[:2], T - 2)[..., None]).mean((-1, -2)),
        "far": (queries * is_far).sum(-1).mean(-1),
        "broad": (entropy.exp() / seen).mean(-1),
    }
    found: list[dict[str, Any]] = []
    taken: set[tuple[int, int]] = set()
    for does in ("previous", "sink", "self", "far", "broad"):
        order = shares[does].flatten().argsort(descending=True, stable=True)
        place = next(
            (divmod(int(i), stacked.size(1)) for i in order if divmod(int(i), stacked.size(1)) not in taken), None
        )
        if place is not None:
            taken.add(place)
            found.append(
                {"layer": place[0], "head": place[1], "does": does, "share": rounded(float(shares[does][place]), 4)}
            )
    return found


def token_text(tokenizer: Tokenizer, token: int) -> str:
    """One token as it is shown; bytes that are no character by themselves as their hexadecimal numbers."""
    data = tokenizer.decode_bytes([token])
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError:
        return " ".join(f"{byte:02x}" for byte in data)


def _ids(loaded: LoadedModel, prompt: str) -> list[int]:
    if not prompt.strip():
        raise UserError("The prompt is empty. Give a few words: --prompt 'One sunny morning'.")
    if loaded.is_chat:
        return render_for_completion(loaded.tokenizer, [{"role": "user", "content": prompt}])
    return [loaded.tokenizer.bos_id, *loaded.tokenizer.encode(prompt)]


def _lower(head: Tensor) -> list[list[float]]:
    """Row i with what token i gives to tokens 0 to i."""
    return [[round(value, 4) for value in row[: i + 1]] for i, row in enumerate(head.tolist())]
