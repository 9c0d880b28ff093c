"""torch.compile of the parts of a training step."""

import functools
from collections.abc import Callable
from typing import Any

import torch


@functools.cache
def compiled(function: Callable[..., Any]) -> Callable[..., Any]:
    """`function`, compiled at its first call for the shapes that it is called with; the same object every time."""
    import torch._dynamo  # a second

    # Under DDP each part of the model is a graph already, whose gradients are sent while the others compute; torch's
    # own way of cutting whole models into parts cannot take autograd functions.
    torch._dynamo.config.optimize_ddp = False
    return torch.compile(function, dynamic=False)


def forget_compiled() -> None:
    """Make room for another model's graphs: of each function torch holds a few, and computes eagerly beyond them."""
    torch.compiler.reset()
