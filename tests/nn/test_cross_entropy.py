"""The fused loss against torch's own over all logits."""

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

import nanochat_pl.nn.cross_entropy as module
from nanochat_pl.nn.compiled import compiled
from nanochat_pl.nn.cross_entropy import linear_cross_entropy


def inputs(N=37, C=8, V=50, dtype=torch.float64, scale=1.0, seed=0):
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(N, C, dtype=dtype, generator=generator)
    weight = scale * torch.randn(V, C, dtype=dtype, generator=generator)
    targets = torch.randint(V, (N,), generator=generator)
    weights = torch.rand(N, dtype=dtype, generator=generator) * 2
    return x.requires_grad_(), weight.requires_grad_(), targets, weights


def plain(x, weight, targets, weights=None, *, vocab_size=None, softcap=None, ignore_index=-100, reduction="sum"):
    logits = x @ weight[:vocab_size].T
    if softcap is not None:
        logits = softcap * torch.tanh(logits / softcap)
    losses = F.cross_entropy(logits, targets, ignore_index=ignore_index, reduction="none")
    losses = losses if weights is None else losses * weights
    return losses.sum() if reduction == "sum" else losses


@pytest.fixture
def small_chunks(monkeypatch):
    monkeypatch.setitem(module.CHUNK_BYTES, "cpu", 16 * 50 * 8)  # 16 tokens: the 37 of the tests are 3 chunks


def compare(arguments, options, upstream=1.0, tolerance=1e-10):
    x, weight, targets, weights = arguments
    results = []
    for function in (linear_cross_entropy, plain):
        loss = function(x, weight, targets, weights, **options)
        scaled = (loss * upstream).sum()
        results.append((loss, *torch.autograd.grad(scaled, (x, weight))))
    for ours, theirs in zip(*results):
        torch.testing.assert_close(ours, theirs, rtol=tolerance, atol=tolerance)


@settings(max_examples=40, deadline=None)
@given(
    N=st.integers(1, 70),
    V=st.sampled_from([1, 2, 50]),
    softcap=st.sampled_from([None, 15.0, 2.0]),
    reduction=st.sampled_from(["sum", "none"]),
    weighted=st.booleans(),
    ignored=st.sampled_from([0.0, 0.4, 1.0]),
    upstream=st.sampled_from([1.0, -0.01, 1024.0]),
)
def test_loss_and_gradients_equal_torchs(N, V, softcap, reduction, weighted, ignored, upstream):
    x, weight, targets, weights = inputs(N, V=V)
    targets[torch.rand(N, generator=torch.Generator().manual_seed(1)) < ignored] = -100
    tolerance = 1e-10 * max(1.0, abs(upstream))
    options = dict(softcap=softcap, reduction=reduction)
    compare((x, weight, targets, weights if weighted else None), options, upstream, tolerance)


@pytest.mark.parametrize("reduction", ["sum", "none"])
@pytest.mark.parametrize("softcap", [None, 15.0])
def test_chunks_do_not_show(small_chunks, softcap, reduction):
    x, weight, targets, weights = inputs()
    targets[::5] = -100
    compare((x, weight, targets, weights), dict(softcap=softcap, reduction=reduction, vocab_size=50))


@pytest.mark.parametrize("reduction", ["sum", "none"])
@pytest.mark.parametrize("softcap", [None, 3.0])
def test_gradcheck(small_chunks, softcap, reduction):
    x, weight, targets, weights = inputs(N=20, C=4, V=50)
    assert torch.autograd.gradcheck(
        lambda x, weight: linear_cross_entropy(x, weight, targets, weights, softcap=softcap, reduction=reduction),
        (x, weight),
    )


def test_padding_rows_have_no_probability_and_no_gradient():
    x, weight, targets, weights = inputs(V=64)
    targets = targets.clamp(max=49)
    compare((x, weight, targets, weights), dict(vocab_size=50, softcap=15.0))
    (gradient,) = torch.autograd.grad(linear_cross_entropy(x, weight, targets, vocab_size=50), weight)
    assert gradient[50:].abs().max() == 0


def test_extreme_logits_stay_exact_without_softcap():
    x, weight, targets, weights = inputs(scale=1e3)
    compare((x, weight, targets, weights), {}, tolerance=1e-9)
    loss = linear_cross_entropy(x.float(), weight.float(), targets)
    assert loss.isfinite() and loss.dtype == torch.float32


def test_gradients_may_be_asked_for_twice_and_separately():
    x, weight, targets, _ = inputs()
    loss = linear_cross_entropy(x, weight, targets)
    first = torch.autograd.grad(loss, (x, weight), retain_graph=True)
    again = torch.autograd.grad(2 * loss, (x, weight))
    for a, b in zip(first, again):
        torch.testing.assert_close(2 * a, b)
    head_only = torch.autograd.grad(linear_cross_entropy(x.detach(), weight, targets), weight)[0]
    torch.testing.assert_close(head_only, first[1])


def test_bfloat16_compute_accumulates_the_heads_gradient_in_float32(small_chunks):
    x, weight, targets, weights = inputs(N=400, C=16, dtype=torch.float32)
    exact = torch.autograd.grad(plain(x, weight, targets, weights, softcap=15.0), (x, weight))
    low = x.detach().bfloat16().requires_grad_()
    loss = linear_cross_entropy(low, weight, targets, weights, softcap=15.0)
    dx, dweight = torch.autograd.grad(loss, (low, weight))
    assert (loss.dtype, dx.dtype, dweight.dtype) == (torch.float32, torch.bfloat16, torch.float32)
    assert (dx.float() - exact[0]).norm() < 0.02 * exact[0].norm()
    assert (dweight - exact[1]).norm() < 0.01 * exact[1].norm()


def test_no_gradient_is_computed_where_none_is_wanted():
    x, weight, targets, _ = inputs()
    with torch.no_grad():
        assert not linear_cross_entropy(x, weight, targets).requires_grad
    torch.testing.assert_close(linear_cross_entropy(x.detach(), weight.detach(), targets), plain(x, weight, targets))


def test_tokens_all_ignored_give_zero_not_nan():
    x, weight, targets, _ = inputs()
    loss = linear_cross_entropy(x, weight, torch.full_like(targets, -100), softcap=15.0)
    gradients = torch.autograd.grad(loss, (x, weight))
    assert loss == 0 and all(gradient.abs().max() == 0 for gradient in gradients)


def test_the_logits_of_all_tokens_never_exist_at_once():
    """The largest tensor that the loss allocates is a chunk of logits."""
    from torch.utils._python_dispatch import TorchDispatchMode

    class Largest(TorchDispatchMode):
        elements = 0

        def __torch_dispatch__(self, function, types, args=(), kwargs=None):
            result = function(*args, **(kwargs or {}))
            if isinstance(result, torch.Tensor):
                self.elements = max(self.elements, result.numel())
            return result

    x, weight, targets, _ = inputs(N=4096, C=16, V=8192, dtype=torch.float32)
    with Largest() as largest:
        linear_cross_entropy(x, weight, targets, softcap=15.0).backward()
    assert 0 < 6 * largest.elements < 4096 * 8192


def fuse_on_the_cpu(monkeypatch, function):
    """What a GPU would compute: whether to fuse is asked of the device alone."""

    class Head(module._Head):
        def __init__(self, *arguments):
            super().__init__(*arguments[:-1], True)

    monkeypatch.setattr(module, "_Head", Head)
    monkeypatch.setattr(module, "compiled", function)
    monkeypatch.setattr(module, "ACCELERATOR_CHUNK_BYTES", 16 * 50 * 8)


@pytest.mark.parametrize("reduction", ["sum", "none"])
@pytest.mark.parametrize("softcap", [None, 15.0])
@pytest.mark.parametrize("N", [37, 64])
def test_the_formula_that_is_fused_on_a_gpu_is_the_same(monkeypatch, N, softcap, reduction):
    lengths = set()

    def spy(function):
        def called(z, *arguments):
            lengths.add(z.size(0))
            return function(z, *arguments)

        return called

    fuse_on_the_cpu(monkeypatch, spy)
    x, weight, targets, weights = inputs(N, V=64)
    targets = targets.clamp(max=49)
    targets[::5] = -100
    compare((x, weight, targets, weights), dict(softcap=softcap, reduction=reduction, vocab_size=50))
    assert lengths == ({16} if N == 64 else {13, 11})  # equal chunks, where there are any


@pytest.mark.slow
@pytest.mark.parametrize("softcap", [None, 15.0])
def test_the_compiled_formula_equals_torchs(monkeypatch, softcap):
    fuse_on_the_cpu(monkeypatch, compiled)
    torch.compiler.reset()
    x, weight, targets, weights = inputs(64, V=50, dtype=torch.float32)
    with torch._dynamo.config.patch(error_on_recompile=True):
        compare((x, weight, targets, weights), dict(softcap=softcap), tolerance=1e-5)


@pytest.mark.parametrize("fused", [False, True])
@pytest.mark.parametrize("reduction", ["sum", "none"])
@pytest.mark.parametrize("softcap", [None, 15.0])
def test_float16_gradients_neither_vanish_nor_overflow(monkeypatch, softcap, reduction, fused):
    """A large vocabulary, whose probabilities are below float16's smallest normal number, and a scaled loss."""
    if fused:
        fuse_on_the_cpu(monkeypatch, lambda function: function)
        monkeypatch.setattr(module, "ACCELERATOR_CHUNK_BYTES", 256 * 2**20)
    x, weight, targets, weights = inputs(N=64, C=16, V=30_000, dtype=torch.float32, scale=1.0)
    exact = torch.autograd.grad(plain(x, weight, targets, weights, softcap=softcap), (x, weight))
    low = x.detach().half().requires_grad_()
    for loss_scale in (1.0, 16.0, 2.0**10):
        loss = linear_cross_entropy(low, weight, targets, weights, softcap=softcap, reduction=reduction)
        dx, dweight = torch.autograd.grad(loss.sum() * loss_scale, (low, weight))
        assert (dx.dtype, dweight.dtype) == (torch.float16, torch.float32)
        assert (dx.float() / loss_scale - exact[0]).norm() < 2e-3 * exact[0].norm()
        assert (dweight / loss_scale - exact[1]).norm() < 2e-3 * exact[1].norm()
        each = (dweight / loss_scale - exact[1]).norm(dim=1) / exact[1].norm(dim=1)
        assert each.median() < 0.01  # of tokens that are hardly ever likely: in AdamW as loud as the others
