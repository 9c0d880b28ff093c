"""MuonAdamW as the papers write it: one parameter at a time, float64, no stacking, nothing in place."""

import math

import torch
from torch import Tensor

COEFFICIENTS = [
    (8.156554524902461, -22.48329292557795, 15.878769915207462),
    (4.042929935166739, -2.808917465908714, 0.5000178451051316),
    (3.8916678022926607, -2.772484153217685, 0.5060648178503393),
    (3.285753657755655, -2.3681294933425376, 0.46449024233003106),
    (2.3465413258596377, -1.7097828382687081, 0.42323551169305323),
]


def adamw_step(
    p: Tensor, grad: Tensor, state: dict, *, lr: float, betas: tuple[float, float], eps: float, weight_decay: float
) -> Tensor:
    """The new parameter; `state` is brought up to date."""
    p, grad = p.double(), grad.double()
    beta1, beta2 = betas
    t = state["t"] = state.get("t", 0) + 1
    m = state["m"] = beta1 * state.get("m", torch.zeros_like(p)) + (1 - beta1) * grad
    v = state["v"] = beta2 * state.get("v", torch.zeros_like(p)) + (1 - beta2) * grad**2
    m_hat, v_hat = m / (1 - beta1**t), v / (1 - beta2**t)
    return p - lr * weight_decay * p - lr * m_hat / (v_hat.sqrt() + eps)


def polar_express(g: Tensor, steps: int, dtype: torch.dtype = torch.float64) -> Tensor:
    """One matrix, by the formula X <- a X + b (X X^T) X + c (X X^T)^2 X."""
    x = g.to(dtype)
    x = x / (1.01 * x.norm() + 1e-6)
    for a, b, c in COEFFICIENTS[:steps]:
        gram = x @ x.T
        x = a * x + b * gram @ x + c * gram @ gram @ x
    return x


def muon_step(
    p: Tensor,
    grad: Tensor,
    state: dict,
    *,
    lr: float,
    momentum: float,
    beta2: float,
    weight_decay: float,
    ns_steps: int = 5,
    equilibrate: bool = True,
    renormalize: bool = True,
    variance_normalize: bool = True,
    cautious: bool = True,
) -> Tensor:
    """The new matrix; `state` is brought up to date."""
    p, grad = p.double(), grad.double()
    rows, cols = p.shape
    buffer = state["buffer"] = momentum * state.get("buffer", torch.zeros_like(p)) + (1 - momentum) * grad
    g = (1 - momentum) * grad + momentum * buffer
    if equilibrate:
        mean_norm = math.sqrt(float((g**2).sum()) / rows)
        g = torch.stack([row * mean_norm / max(float(row.norm()), 1e-6) for row in g])
    g = polar_express(g, ns_steps)
    if renormalize:
        g = g * math.sqrt(min(rows, cols)) / max(float(g.norm()), 1e-6)
    if variance_normalize:
        neurons = g if rows >= cols else g.T
        mean_square = (neurons**2).mean(dim=1)
        second = state["second"] = (
            beta2 * state.get("second", torch.zeros_like(mean_square)) + (1 - beta2) * mean_square
        )
        scaled = neurons / second.clamp(min=1e-10).sqrt()[:, None]
        scaled = scaled * (neurons.norm() / max(float(scaled.norm()), 1e-10))
        g = scaled if rows >= cols else scaled.T
    decayed = torch.where(g * p >= 0, p, 0.0) if cautious else p
    return p - lr * math.sqrt(max(1.0, rows / cols)) * (g + weight_decay * decayed)
