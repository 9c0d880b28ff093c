"""Streamed matrices: the same outputs and input gradients as dense ones, and sketches of the weight's gradient."""

from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_iter

from nanochat_pl.core.errors import UserError
from nanochat_pl.models.contract import build_model
from nanochat_pl.models.execution import Execution
from nanochat_pl.models.gpt2 import GPT2Config
from nanochat_pl.nn.layers import MLP, Linear
from nanochat_pl.nn.molegrad import Streaming, stream
from nanochat_pl.optim.muon import MuonAdamWSpec

WIDTH, RANK = 32, 8


class Block(nn.Module):
    """An MLP and a matrix of attention, as the models name them."""

    def __init__(self) -> None:
        super().__init__()
        self.mlp = MLP(WIDTH)
        self.attn = nn.ModuleDict({"proj": Linear(WIDTH, WIDTH), "gate": Linear(12, 2)})
        generator = torch.Generator().manual_seed(0)
        for parameter in self.parameters():
            parameter.data.normal_(std=0.1, generator=generator)

    def forward(self, x: Tensor) -> Tensor:
        y = self.attn["proj"](x + self.mlp(x))
        return y + self.attn["gate"](y[..., :12]).sum(-1, keepdim=True)


def inputs(tokens: int = 24) -> Tensor:
    return torch.randn(2, tokens, WIDTH, generator=torch.Generator().manual_seed(1)).requires_grad_()


def gradients(block: nn.Module, x: Tensor) -> tuple[Tensor, Tensor]:
    """Output and input gradient of a loss that is not linear."""
    x.grad = None
    y = block(x)
    y.square().mean().backward()
    assert x.grad is not None
    return y.detach(), x.grad


@pytest.mark.parametrize("target", ["ffn_only", "attention", "all"])
@pytest.mark.parametrize("power_iters", [0, 1])
def test_outputs_and_input_gradients_are_those_of_dense_matrices(target: Any, power_iters: Any) -> None:
    dense, streamed, x = Block(), Block(), inputs()
    expected = gradients(dense, x)
    low_rank = stream(streamed, Streaming(True, RANK, power_iters, target, min_size=16))
    torch.testing.assert_close(gradients(streamed, x), expected, rtol=1e-5, atol=1e-7)
    names = {"ffn_only": {"mlp.fc", "mlp.proj"}, "attention": {"attn.proj"}}
    names["all"] = names["ffn_only"] | names["attention"]
    assert low_rank.keys() == {f"{name}.weight" for name in names[target]}
    full = dict(dense.named_parameters())
    for name, matrix in low_rank.items():
        weight, left, right = matrix
        gradient = full[name].grad
        assert gradient is not None and weight.grad is None
        assert matrix.transposed == (name == "mlp.proj.weight")
        gradient = gradient.mT if matrix.transposed else gradient
        torch.testing.assert_close(left.grad, gradient @ right, rtol=1e-4, atol=1e-7)
        if power_iters and "mlp" in name:
            torch.testing.assert_close(right.grad, gradient.mT @ left, rtol=1e-4, atol=1e-7)
        else:
            assert right.grad is None
    for name, parameter in streamed.named_parameters():
        if name not in low_rank:
            torch.testing.assert_close(parameter.grad, full[name].grad, rtol=1e-4, atol=1e-7)


def test_a_gpt2_whose_matrices_have_biases() -> None:
    config = GPT2Config(vocab_size=64, sequence_len=16, n_layer=1, n_head=2, n_kv_head=2, n_embd=WIDTH)
    streaming = Streaming(True, RANK, target_layers="all", min_size=16)
    dense, streamed = build_model(config, "cpu", 0), build_model(config, "cpu", 0, Execution(streaming=streaming))
    for model in (dense, streamed):
        for parameter in model.parameters():
            parameter.data.add_(0.02)
        ids = torch.arange(17).unsqueeze(0)
        model(ids[:, :-1], ids[:, 1:]).backward()
    for name, parameter in dense.named_parameters():
        other = streamed.get_parameter(name)
        if name not in streamed.low_rank:
            torch.testing.assert_close(other.grad, parameter.grad, rtol=1e-4, atol=1e-5)
            continue
        _, left, right = streamed.low_rank[name]
        torch.testing.assert_close(left.grad, parameter.grad @ right, rtol=1e-4, atol=1e-5)


def test_with_all_directions_the_gradient_is_whole() -> None:
    dense, streamed, x = Block(), Block(), inputs()
    gradients(dense, x)
    low_rank = stream(streamed, Streaming(True, WIDTH, 1, "all", min_size=16))
    gradients(streamed, x)
    assert len(low_rank) == 3
    for name, matrix in low_rank.items():
        assert matrix.left.grad is not None
        gradient = matrix.left.grad @ matrix.right.mT
        gradient = gradient.mT if matrix.transposed else gradient
        torch.testing.assert_close(gradient, dense.get_parameter(name).grad, rtol=1e-4, atol=1e-6)


def test_micro_batches_add_up() -> None:
    parts, whole, x = Block(), Block(), inputs()
    of_parts, of_whole = (stream(block, Streaming(True, RANK, min_size=16)) for block in (parts, whole))
    for piece in x.detach().split(8, dim=1):
        parts(piece).square().sum().backward()
    whole(x).square().sum().backward()
    for one, other in zip(of_parts.values(), of_whole.values()):
        torch.testing.assert_close(one.left.grad, other.left.grad, rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(one.right.grad, other.right.grad, rtol=1e-4, atol=1e-5)


def test_in_bfloat16_the_sketches_are_float32() -> None:
    block, x = Block(), inputs()
    low_rank = stream(block, Streaming(True, RANK, min_size=16))
    block.mlp(x.bfloat16()).float().square().mean().backward()
    for _, left, right in low_rank.values():
        assert left.grad is not None and right.grad is not None
        assert left.grad.dtype == right.grad.dtype == torch.float32
        assert left.grad.norm() > 0


def test_without_gradients_nothing_changes() -> None:
    block, x = Block(), inputs().detach()
    expected = block(x)
    stream(block, Streaming(True, RANK, target_layers="all", min_size=16))
    with torch.no_grad():
        torch.testing.assert_close(block(x), expected)
    assert [name for name, _ in block.named_parameters()] == [name for name, _ in Block().named_parameters()]


def test_the_wide_activation_is_not_kept() -> None:
    kept = []
    for streamed in (False, True):
        mlp, x, saved = MLP(WIDTH), inputs(100), {}
        if streamed:
            stream(nn.ModuleDict({"mlp": mlp}), Streaming(True, 4, min_size=16))

        def keep(tensor: Tensor, saved: dict[int, int] = saved, tokens: int = x.numel() // WIDTH) -> Tensor:
            if tensor.numel() % tokens == 0:
                saved[tensor.untyped_storage()._cdata] = tensor.nbytes
            return tensor

        with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
            mlp(x)
        kept.append(sum(saved.values()))
    assert kept[1] == x.nbytes and kept[0] >= 8 * kept[1]


class Made(TorchDispatchMode):
    """The sizes of all storages that are made under it."""

    def __init__(self) -> None:
        super().__init__()
        self.bytes: set[int] = set()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        given = {x.untyped_storage()._cdata for x in tree_iter((args, kwargs)) if isinstance(x, Tensor)}
        made = func(*args, **(kwargs or {}))
        for x in tree_iter(made):
            if isinstance(x, Tensor) and x.untyped_storage()._cdata not in given:
                self.bytes.add(x.untyped_storage().nbytes())
        return made


def test_nothing_of_a_dense_gradients_size_is_ever_made() -> None:
    """Neither in the backward pass nor in the optimizer's step; 25 tokens have activations of other sizes."""
    for streamed in (False, True):
        block, x = nn.ModuleDict({"mlp": MLP(WIDTH)}), inputs(25)
        low_rank = stream(block, Streaming(True, 4, min_size=16)) if streamed else {}
        named = list(block.named_parameters())
        optimizer = MuonAdamWSpec().build(
            named, {name: "matrix" for name, _ in named}, width=WIDTH,
            low_rank=low_rank, low_rank_values=Streaming(True, 4).optimizer_values(),
        )  # fmt: skip
        before = block["mlp"].fc.weight.clone(), block["mlp"].proj.weight.clone()
        with Made() as trace:
            block["mlp"](x).sum().backward()
            optimizer.step()
        assert (4 * 4 * WIDTH * WIDTH in trace.bytes) == (not streamed)
        assert len(trace.bytes) > 3
        assert not torch.equal(before[0], block["mlp"].fc.weight)
        assert not torch.equal(before[1], block["mlp"].proj.weight)


def test_impossible_choices_are_told() -> None:
    with pytest.raises(UserError, match=r"rank_k is 0; it must be at least 1"):
        Streaming(True, 0)
    with pytest.raises(UserError, match=r"rank_k is 33, but the matrix mlp.fc of 128 x 32 has 32 directions"):
        stream(Block(), Streaming(True, 33, min_size=16))
    with pytest.raises(UserError, match=r"matches no matrix.*min_size=64 or more \(the largest here: 32\)"):
        stream(Block(), Streaming(True, RANK, min_size=64))
    with pytest.raises(UserError, match=r"power_iters"):
        Streaming(True, 8, 2)  # type: ignore[arg-type]
    with pytest.raises(UserError, match=r"target_layers=attention matches no matrix"):
        stream(nn.ModuleDict({"mlp": MLP(WIDTH)}), Streaming(True, RANK, target_layers="attention", min_size=16))
