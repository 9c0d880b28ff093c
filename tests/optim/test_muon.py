import copy
import io
import itertools
from typing import Any

import pytest
import torch
from torch import nn

from nanochat_pl.core.errors import UserError
from nanochat_pl.optim.muon import AdamWRow, MuonAdamW, MuonAdamWSpec
from tests.reference import plain_muon

MATRICES = {"a": (16, 16), "b": (16, 16), "wide": (8, 32), "tall": (48, 16), "tall2": (48, 16), "gate": (2, 12)}
OTHERS = {
    "wte": ((40, 16), "embedding"),
    "ve": ((40, 8), "value_embedding"),
    "head": ((40, 16), "unembedding"),
    "resid": ((4,), "resid_scalar"),
    "x0": ((4,), "x0_scalar"),
    "smear": ((1,), "gate"),
    "backout": ((1,), "gate"),
}
ROLES = dict.fromkeys(MATRICES, "matrix") | {name: role for name, (_, role) in OTHERS.items()}
SWITCHES = ("equilibrate", "renormalize", "variance_normalize", "cautious")


def build_parameters(seed: int = 0, dtype: torch.dtype = torch.float32) -> dict[str, nn.Parameter]:
    generator = torch.Generator().manual_seed(seed)
    shapes = MATRICES | {name: shape for name, (shape, _) in OTHERS.items()}
    return {name: nn.Parameter(torch.randn(shape, generator=generator).to(dtype)) for name, shape in shapes.items()}


def set_gradients(parameters: dict[str, nn.Parameter], step: int) -> None:
    for index, parameter in enumerate(parameters.values()):
        generator = torch.Generator().manual_seed(1000 * step + index)
        parameter.grad = torch.randn(parameter.shape, generator=generator).to(parameter.dtype)


def build(parameters: dict[str, nn.Parameter], **options: Any) -> MuonAdamW:
    return MuonAdamWSpec(**options).build(parameters.items(), ROLES, width=768)


def take_steps(optimizer: MuonAdamW, parameters: dict[str, nn.Parameter], steps: range) -> None:
    for step in steps:
        set_gradients(parameters, step)
        optimizer.step()


def values(parameters: dict[str, nn.Parameter]) -> dict[str, torch.Tensor]:
    return {name: parameter.detach().clone() for name, parameter in parameters.items()}


def assert_same(left: dict[str, torch.Tensor], right: dict[str, torch.Tensor]) -> None:
    assert left.keys() == right.keys()
    for name in left:
        assert torch.equal(left[name], right[name]), name


@pytest.mark.parametrize("switches", itertools.product([True, False], repeat=4))
@pytest.mark.parametrize(("weight_decay", "ns_steps"), [(0.28, 5), (0.0, 3)])
def test_three_steps_equal_the_plain_twin(switches: tuple[bool, ...], weight_decay: float, ns_steps: int) -> None:
    options = dict(zip(SWITCHES, switches)) | {"ns_steps": ns_steps}
    parameters = build_parameters()
    expected = {name: parameter.detach().double() for name, parameter in parameters.items()}
    states: dict[str, dict] = {name: {} for name in parameters}
    spec = MuonAdamWSpec(weight_decay=weight_decay, **options)
    optimizer = spec.build(parameters.items(), ROLES, width=768)
    rows = spec.rows()
    for step in range(3):
        set_gradients(parameters, step)
        optimizer.step()
        for name, parameter in parameters.items():
            assert parameter.grad is not None
            arguments = (expected[name], parameter.grad, states[name])
            if ROLES[name] == "matrix":
                muon = dict(lr=0.02, momentum=0.95, beta2=0.9, weight_decay=weight_decay, **options)
                expected[name] = plain_muon.muon_step(*arguments, **muon)
            else:
                row = rows[ROLES[name]]
                adamw = dict(lr=row.lr, betas=(row.beta1, row.beta2), eps=1e-10, weight_decay=row.weight_decay)
                expected[name] = plain_muon.adamw_step(*arguments, **adamw)
    for name, parameter in parameters.items():
        torch.testing.assert_close(parameter.detach().double(), expected[name], rtol=1e-5, atol=1e-5, msg=name)


def test_adamw_equals_torch() -> None:
    ours, theirs = build_parameters(), build_parameters()
    optimizer = build(ours)
    row = MuonAdamWSpec().embedding
    reference = torch.optim.AdamW(
        [theirs["wte"]], lr=row.lr, betas=(row.beta1, row.beta2), eps=1e-10, weight_decay=row.weight_decay
    )
    for step in range(5):
        set_gradients(ours, step)
        set_gradients(theirs, step)
        optimizer.step()
        reference.step()
    torch.testing.assert_close(ours["wte"], theirs["wte"])


@pytest.mark.parametrize("switch", [True, False])
def test_a_gradient_of_zeros_changes_nothing_but_by_decay(switch: bool) -> None:
    parameters = build_parameters()
    optimizer = build(parameters, weight_decay=0.0, **dict.fromkeys(SWITCHES, switch))
    for name in MATRICES:
        parameters[name].grad = torch.zeros_like(parameters[name])
    before = values(parameters)
    optimizer.step()
    assert_same(before, values(parameters))


@pytest.mark.parametrize("switches", itertools.product([True, False], repeat=2))
def test_updates_in_bfloat16_are_near_those_in_float32(switches: tuple[bool, bool]) -> None:
    options = {"weight_decay": 0.0, "lr": 1.0} | dict(zip(("renormalize", "variance_normalize"), switches))
    moved = []
    for in_bfloat16 in (True, False):
        parameters = build_parameters()
        before = values(parameters)
        take_steps(build(parameters, bfloat16_updates=in_bfloat16, **options), parameters, range(2))
        moved.append({name: parameters[name].detach() - before[name] for name in MATRICES})
    for name in MATRICES:
        assert (moved[0][name] - moved[1][name]).norm() < 0.15 * moved[1][name].norm(), name


def test_gradients_are_left_as_they_are_without_clipping() -> None:
    parameters = build_parameters()
    set_gradients(parameters, 0)
    before = {name: parameter.grad.clone() for name, parameter in parameters.items()}  # type: ignore[union-attr]
    build(parameters).step()
    assert_same(before, {name: parameter.grad for name, parameter in parameters.items()})  # type: ignore[misc]


def test_pieces_of_a_stack_give_the_same_as_the_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    whole, pieces = build_parameters(), build_parameters()
    take_steps(build(whole), whole, range(2))
    monkeypatch.setattr("nanochat_pl.optim.muon.WORKSPACE_BYTES", {"cpu": 1})
    take_steps(build(pieces), pieces, range(2))
    for name in whole:
        torch.testing.assert_close(whole[name], pieces[name], msg=name)


def test_bfloat16_parameters_are_the_rounded_float32_ones_with_float32_state() -> None:
    low, high = build_parameters(dtype=torch.bfloat16), build_parameters(dtype=torch.bfloat16)
    high = {name: nn.Parameter(parameter.detach().float()) for name, parameter in high.items()}
    optimizer, reference = build(low), build(high)
    set_gradients(low, 0)
    for name, parameter in low.items():
        assert parameter.grad is not None
        high[name].grad = parameter.grad.float()
    optimizer.step()
    reference.step()
    for name, parameter in low.items():
        torch.testing.assert_close(parameter, high[name].bfloat16(), msg=name, rtol=0.008, atol=1e-6)
        assert {value.dtype for value in optimizer.state[parameter].values()} == {torch.float32}


def test_parameters_without_gradient_are_skipped() -> None:
    parameters = build_parameters()
    set_gradients(parameters, 0)
    for name in ("a", "wte", "gate"):
        parameters[name].grad = None
    before = values(parameters)
    optimizer = build(parameters)
    optimizer.step()
    unchanged = {name for name in parameters if torch.equal(before[name], parameters[name])}
    assert unchanged == {"a", "wte", "gate"}
    take_steps(optimizer, parameters, range(1, 2))
    assert not torch.equal(before["a"], parameters["a"])


def test_frozen_parameters_are_left_out() -> None:
    parameters = build_parameters()
    parameters["wte"].requires_grad_(False)
    optimizer = build(parameters)
    assert "embedding" not in {group["role"] for group in optimizer.param_groups}


def test_the_closure_is_called_once_with_gradients_enabled() -> None:
    parameters = build_parameters()
    optimizer = build(parameters)
    calls = []

    def closure() -> torch.Tensor:
        optimizer.zero_grad()
        loss = sum((parameter**2).sum() for parameter in parameters.values())
        assert isinstance(loss, torch.Tensor)
        loss.backward()
        calls.append(loss.detach())
        return loss

    losses = [optimizer.step(closure).item() for _ in range(3)]
    assert len(calls) == 3 and losses[2] < losses[0]


def test_grad_clip_is_that_of_torch() -> None:
    clipped, reference = build_parameters(), build_parameters()
    optimizer, plain = build(clipped, grad_clip=1.5), build(reference)
    for step in range(3):
        set_gradients(clipped, step)
        set_gradients(reference, step)
        norm = nn.utils.clip_grad_norm_(reference.values(), 1.5)
        assert norm > 1.5
        optimizer.step()
        plain.step()
    for name in clipped:
        torch.testing.assert_close(clipped[name], reference[name], msg=name)


def test_param_clip_bounds_each_gradient_by_itself() -> None:
    parameters = build_parameters()
    set_gradients(parameters, 0)
    for parameter in (parameters["a"], parameters["x0"]):
        assert parameter.grad is not None
        parameter.grad.mul_(1e-3)
    before = {name: parameter.grad.clone() for name, parameter in parameters.items()}  # type: ignore[union-attr]
    build(parameters, param_clip=0.5).step()
    for name, parameter in parameters.items():
        assert parameter.grad is not None
        expected = before[name] * min(1.0, 0.5 / float(before[name].norm()))
        torch.testing.assert_close(parameter.grad, expected, msg=name, rtol=1e-4, atol=1e-7)
    torch.testing.assert_close(parameters["a"].grad, before["a"])


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_restored_optimizer_goes_on_bit_for_bit(dtype: torch.dtype) -> None:
    through, resumed = build_parameters(dtype=dtype), build_parameters(dtype=dtype)
    optimizer = build(through)
    take_steps(optimizer, through, range(3))
    file = io.BytesIO()
    torch.save({"state": optimizer.state_dict(), "parameters": values(through)}, file)
    take_steps(optimizer, through, range(3, 6))
    file.seek(0)
    saved = torch.load(file, weights_only=True)
    with torch.no_grad():
        for name, parameter in resumed.items():
            parameter.copy_(saved["parameters"][name])
    restored = build(resumed)
    restored.load_state_dict(saved["state"])
    for parameter in resumed.values():
        assert all(value.dtype == torch.float32 for value in restored.state[parameter].values())
    take_steps(restored, resumed, range(3, 6))
    assert_same(values(through), values(resumed))


def test_the_state_is_found_by_name_whatever_the_order() -> None:
    through, resumed = build_parameters(), dict(reversed(build_parameters().items()))
    optimizer = build(through)
    take_steps(optimizer, through, range(2))
    restored = build(resumed)
    restored.load_state_dict(optimizer.state_dict())
    for name, parameter in resumed.items():
        assert_same(dict(optimizer.state[through[name]]), dict(restored.state[parameter]))


def test_a_loaded_state_is_a_copy() -> None:
    parameters, others = build_parameters(), build_parameters()
    optimizer, restored = build(parameters), build(others)
    take_steps(optimizer, parameters, range(1))
    saved = optimizer.state_dict()
    before = copy.deepcopy(saved["state"])
    restored.load_state_dict(saved)
    take_steps(restored, others, range(1, 3))
    for index, state in before.items():
        assert_same(state, saved["state"][index])


def test_a_state_of_another_model_is_refused() -> None:
    parameters = build_parameters()
    optimizer = build(parameters)
    fewer = {name: parameter for name, parameter in build_parameters().items() if name != "wide"}
    with pytest.raises(UserError, match="another model: it differs in wide"):
        build(fewer).load_state_dict(optimizer.state_dict())


def test_consolidation_keeps_the_state_of_a_single_device() -> None:
    parameters = build_parameters()
    optimizer = build(parameters)
    take_steps(optimizer, parameters, range(1))
    before = optimizer.state_dict()
    optimizer.consolidate_state_dict()
    for index, state in before["state"].items():
        assert_same(state, optimizer.state_dict()["state"][index])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"lr": -1.0}, "MuonAdamWSpec.lr is -1.0"),
        ({"momentum": 1.0}, "from 0 to below 1"),
        ({"ns_steps": 6}, "legal values: 1 to 5"),
        ({"eps": 0.0}, "above 0"),
        ({"grad_clip": 0.0}, "null for no clipping"),
        ({"embedding": 0.3}, "must be .*AdamWRow"),
    ],
)
def test_values_out_of_range_are_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        MuonAdamWSpec(**options)


def test_a_row_checks_its_betas() -> None:
    with pytest.raises(UserError, match=r"AdamWRow.beta2 is 1.5"):
        AdamWRow(0.1, 0.9, 1.5, 0.0)
