"""Either side of bench/optimizer.py, one process of it: a worker that takes optimizer steps when asked.

python bench/optimizer_side.py ours|theirs DEVICE DEPTH VOCAB_SIZE
"""

import os
import sys
import time
from collections import Counter
from collections.abc import Callable
from typing import Any

import torch
import torch.distributed as dist
from nanochat_side import build_model as build_their_model
from timing import serve

from nanochat_pl.models.contract import build_model
from nanochat_pl.models.depth import NanoChatSpec
from nanochat_pl.optim import updates
from nanochat_pl.optim.muon import MuonAdamWSpec
from nanochat_pl.optim.sharding import Sharding

SEQUENCE_LEN = 2048
PARTS: dict[str, tuple[Any, str]] = {
    "momentum": (updates, "_nesterov"),
    "orthogonalisation": (updates, "_orthogonalized"),
    "norms and variances": (updates, "_scales"),
    "decay and update": (updates, "_descend"),
    "gather begun": (Sharding, "gather"),
    "gather awaited": (Sharding, "wait"),
}


class Side:
    """Steps with gradients that stay as they are.

    Attributes:
        averages: whether the step itself averages the gradients over the ranks.
    """

    averages = False

    def __init__(self, device: str, model: torch.nn.Module, optimizer: torch.optim.Optimizer):
        self.device, self.optimizer = device, optimizer
        generator = torch.Generator(device).manual_seed(1)
        for p in model.parameters():
            p.grad = torch.randn(p.shape, generator=generator, device=device).to(p.dtype)
        self.gradients = [p.grad for p in model.parameters()]

    def now(self) -> float:
        if self.device == "cuda":
            torch.cuda.synchronize()
        return time.perf_counter()

    def step(self) -> None:
        if dist.is_initialized() and not self.averages:
            for work in [dist.all_reduce(gradient, async_op=True) for gradient in self.gradients]:
                work.wait()
            torch._foreach_div_(self.gradients, dist.get_world_size())
        self.optimizer.step()

    def __call__(self, question: tuple[str, int]) -> Any:
        what, steps = question
        if what == "state":
            return sum(v.nbytes for s in self.optimizer.state.values() for v in s.values() if torch.is_tensor(v))
        if what == "parts":
            return self.parts(steps)
        step = self.step if what == "averaged" else self.optimizer.step
        if dist.is_initialized():
            dist.barrier()
        began = self.now()
        for _ in range(steps):
            step()
        return (self.now() - began) / steps

    def parts(self, steps: int) -> dict[str, float]:
        """Seconds of each part of a step; the device waits between them, so that they sum up to more than a step."""
        seconds: Counter[str] = Counter()

        def timed(name: str, function: Callable[..., Any]) -> Callable[..., Any]:
            def call(*arguments: Any, **keywords: Any) -> Any:
                began = self.now()
                result = function(*arguments, **keywords)
                seconds[name] += self.now() - began  # type: ignore[assignment]
                return result

            return call

        originals = {name: getattr(owner, attribute) for name, (owner, attribute) in PARTS.items()}
        for name, (owner, attribute) in PARTS.items():
            setattr(owner, attribute, timed(name, originals[name]))
        try:
            whole = self(("step", steps))
        finally:
            for name, (owner, attribute) in PARTS.items():
                setattr(owner, attribute, originals[name])
        parts = {name: seconds[name] / steps for name in PARTS}
        return parts | {"AdamW and the rest": whole - sum(parts.values())}


class Ours(Side):
    def __init__(self, device: str, depth: int, vocab_size: int):
        spec = NanoChatSpec(depth=depth, sequence_len=SEQUENCE_LEN)
        config = spec.config(vocab_size, "bfloat16" if device == "cuda" else "float32")
        model = build_model(config, device, 0)
        names, roles = model.named_parameters(), model.param_roles()
        super().__init__(
            device,
            model,
            MuonAdamWSpec().build(names, roles, width=config.n_embd, process_group=dist.group.WORLD),
        )


class Theirs(Side):
    averages = True

    def __init__(self, device: str, depth: int, vocab_size: int):
        model = build_their_model(depth, SEQUENCE_LEN, "L", vocab_size, device)
        super().__init__(device, model, model.setup_optimizer(weight_decay=0.28))


if __name__ == "__main__":
    side, device, depth, vocab_size = sys.argv[1:]
    if "RANK" in os.environ:
        if device == "cuda":
            torch.cuda.set_device(int(os.environ["RANK"]))
        dist.init_process_group("nccl" if device == "cuda" else "gloo")
    serve({"ours": Ours, "theirs": Theirs}[side](device, int(depth), int(vocab_size)))
