"""Torch's optimizers under the stages, against torch's own used by hand."""

import copy
from typing import Any

import pytest
import torch
from torch import nn

from nanochat_pl.config.compose import compose
from nanochat_pl.config.construct import construct_optimizer
from nanochat_pl.core.errors import UserError
from nanochat_pl.optim.foreign import ForeignOptimizer, ForeignSpec, Part

SHAPES = {"fc": (6, 4), "proj": (4, 6), "table": (10, 4), "bias": (6,), "gain": (4,)}
ROLES = {"fc": "matrix", "proj": "matrix", "table": "embedding", "bias": "vector", "gain": "vector"}
KINDS = sorted(
    name
    for name, kind in vars(torch.optim).items()
    if isinstance(kind, type) and issubclass(kind, torch.optim.Optimizer) and kind is not torch.optim.Optimizer
)
UNFIT = {"LBFGS", "SparseAdam", "Muon"}
"""They want one group, sparse gradients, or matrices only."""


def parameters(dtype: torch.dtype = torch.float32) -> dict[str, nn.Parameter]:
    generator = torch.Generator().manual_seed(0)
    return {name: nn.Parameter(torch.randn(shape, generator=generator).to(dtype)) for name, shape in SHAPES.items()}


def spec(name: str, *overrides: str) -> ForeignSpec:
    return construct_optimizer(compose([f"optim={name}", *overrides]).optim)


def build(made: ForeignSpec, params: dict[str, nn.Parameter], **options: Any) -> ForeignOptimizer:
    return made.build(params.items(), ROLES, width=4, **options)


def set_gradients(params: dict[str, nn.Parameter], step: int, scale: float = 1.0) -> None:
    for name in SHAPES:
        generator, p = torch.Generator().manual_seed(100 * step + len(name)), params[name]
        p.grad = (scale * torch.randn(p.shape, generator=generator)).to(p.dtype)


def assert_same(ours: dict[str, nn.Parameter], theirs: dict[str, nn.Parameter]) -> None:
    for name in ours:
        torch.testing.assert_close(ours[name], theirs[name], rtol=1e-5, atol=1e-7)


def test_adamw_is_nanogpts() -> None:
    ours, theirs = parameters(), parameters()
    optimizer = build(spec("adamw"), ours, batch_lr_scale=0.5, weight_decay_scale=3.0)
    decayed, plain = [theirs[name] for name in ("fc", "proj", "table")], [theirs["bias"], theirs["gain"]]
    by_hand = torch.optim.AdamW(
        [{"params": decayed, "weight_decay": 3 * 0.1}, {"params": plain, "weight_decay": 0.0}], 3e-4, (0.9, 0.95)
    )
    for step in range(4):
        set_gradients(ours, step)
        set_gradients(theirs, step)
        optimizer.step()
        torch.nn.utils.clip_grad_norm_(theirs.values(), 1.0)
        by_hand.step()
    assert_same(ours, theirs)
    assert {group["role"]: group["fused"] for group in optimizer.param_groups} == dict.fromkeys(ROLES.values(), True)


def test_torch_muon_is_torchs_with_adamw_for_the_rest() -> None:
    ours, theirs = parameters(), parameters()
    optimizer = build(spec("torch_muon"), ours)
    muon = torch.optim.Muon(
        [theirs["fc"], theirs["proj"]], 1e-3, weight_decay=0.1, momentum=0.95, adjust_lr_fn="match_rms_adamw"
    )
    groups = [{"params": [theirs["table"]]}, {"params": [theirs["bias"], theirs["gain"]], "weight_decay": 0.0}]
    adamw = torch.optim.AdamW(groups, 1e-3, (0.9, 0.95), weight_decay=0.1)
    for step in range(4):
        set_gradients(ours, step)
        set_gradients(theirs, step)
        optimizer.step()
        muon.step()
        adamw.step()
    assert_same(ours, theirs)


@pytest.mark.parametrize("kind", KINDS)
def test_any_of_torchs_trains_or_is_refused(kind: str) -> None:
    target = f"optim._target_=torch.optim.{kind}"
    if kind in UNFIT:
        with pytest.raises(UserError, match=rf"torch.optim.{kind} cannot train with the options of optim: \w+"):
            spec("torch", target)
        return
    params = parameters()
    before = copy.deepcopy(params)
    made = spec("torch", target)
    optimizer = build(made, params, batch_lr_scale=0.5)
    for step in range(2):
        set_gradients(params, step)
        optimizer.step()
    assert all(not torch.equal(params[name], before[name]) for name in params)
    assert {group["lr"] for group in optimizer.param_groups} == {0.0005}
    matrices, others = 64 * 64, 3 * 64 * 64
    real = build(made, {"fc": nn.Parameter(torch.ones(64, 64)), "table": nn.Parameter(torch.ones(192, 64))})
    for group in real.param_groups:
        group["params"][0].grad = torch.ones_like(group["params"][0])
    real.step()
    kept = sum(value.nbytes for state in real.state.values() for value in state.values() if value.ndim)
    planned = made.state_bytes({"matrix": matrices, "embedding": others}, world_size=8)
    assert planned == pytest.approx(kept, rel=0.05, abs=2000)  # Adafactor keeps rows and columns


class Remembering(torch.optim.SGD):
    """It has its state from the beginning, and on a CPU it does not step where `needs_gpu`."""

    def __init__(self, params: Any, lr: float = 0.1, needs_gpu: bool = False):
        super().__init__(params, lr)
        self.needs_gpu = needs_gpu
        for group in self.param_groups:
            for p in group["params"]:
                self.state[p] = {"last": p.detach().clone()}

    def step(self, closure: Any = None) -> None:
        if self.needs_gpu and not self.param_groups[0]["params"][0].is_cuda:
            raise RuntimeError("There is no GPU.")
        super().step(closure)
        for p, kept in self.state.items():
            kept["last"].copy_(p.detach())


def test_state_that_a_class_makes_at_once_is_kept() -> None:
    made, params = ForeignSpec(Part("Remembering", Remembering, {})), parameters()
    optimizer = build(made, params)
    assert {name: optimizer.state[p]["last"].tolist() for name, p in params.items()} == {
        name: p.tolist() for name, p in parameters().items()
    }
    set_gradients(params, 0)
    optimizer.step()
    again = parameters()
    restored = build(made, again)
    restored.load_state_dict(optimizer.state_dict())
    assert all(torch.equal(restored.state[again[name]]["last"], p) for name, p in params.items())


def test_a_class_for_gpus_is_tried_on_one() -> None:
    part = Part("Remembering", Remembering, {"needs_gpu": True})
    if torch.cuda.is_available():
        assert ForeignSpec(part).state_bytes({"matrix": 100}, world_size=1) == 400
    else:
        with pytest.raises(UserError, match="There is no GPU"):
            ForeignSpec(part)


@pytest.mark.parametrize("name", ["adamw", "torch_muon", "torch"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_restored_state_goes_on_exactly(name: str, dtype: torch.dtype) -> None:
    def steps(optimizer: ForeignOptimizer, params: dict[str, nn.Parameter], which: range) -> None:
        for step in which:
            set_gradients(params, step)
            optimizer.step()

    made, through = spec(name), parameters(dtype)
    optimizer = build(made, through)
    steps(optimizer, through, range(3))
    halfway, saved = copy.deepcopy(through), copy.deepcopy(optimizer.state_dict())
    steps(optimizer, through, range(3, 6))
    shuffled = dict(reversed(halfway.items()))  # matched by name, whatever the order
    restored = build(made, shuffled)
    restored.load_state_dict(saved)
    steps(restored, shuffled, range(3, 6))
    for key in through:
        assert torch.equal(through[key], halfway[key])


def test_updates_too_small_for_bfloat16_add_up() -> None:
    params = parameters(torch.bfloat16)
    exact = {name: nn.Parameter(p.detach().float()) for name, p in params.items()}
    made = ForeignSpec(Part("SGD", torch.optim.SGD, {"lr": 1e-4}))
    optimizer, by_hand = build(made, params), torch.optim.SGD(exact.values(), 1e-4)
    for _ in range(200):
        for name, p in params.items():
            p.grad, exact[name].grad = torch.ones_like(p), torch.ones_like(exact[name])
        optimizer.step()
        by_hand.step()
    for name, p in params.items():
        assert p.dtype == p.grad.dtype == torch.bfloat16
        assert torch.equal(p, exact[name].bfloat16())


def test_another_optimizers_state_is_refused() -> None:
    saved = build(spec("adamw"), parameters()).state_dict()
    for other in ("torch_muon", "torch"):
        with pytest.raises(UserError, match="belongs to another optimizer"):
            build(spec(other), parameters()).load_state_dict(saved)


def test_a_role_with_vectors_and_matrices_makes_two_groups() -> None:
    params = {"a": nn.Parameter(torch.ones(2, 2)), "b": nn.Parameter(torch.ones(2))}
    optimizer = spec("adamw").build(params.items(), dict.fromkeys(params, "gate"), width=2)
    assert {group["role"]: group["weight_decay"] for group in optimizer.param_groups} == {
        "gate": 0.1,
        "gate_undecayed": 0.0,
    }
