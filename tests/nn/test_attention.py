"""Every attention backend that runs here against a softmax over the whole masked matrix of scores, in float64."""

import itertools

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from nanochat_pl.nn.attention.backend import Backend
from nanochat_pl.nn.attention.blocked import BLOCK_TOKENS, Blocked
from nanochat_pl.nn.attention.choose import BACKENDS
from nanochat_pl.nn.attention.sdpa import SDPA
from tests.reference.plain_gpt import plain_softmax_attention

DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")
TOLERANCES = {torch.float64: 1e-11, torch.float32: 2e-5, torch.bfloat16: 4e-2, torch.float16: 5e-3}
PLAIN = [("blocked", torch.float64), ("blocked", torch.float32), ("sdpa", torch.float32)]
OF_GPUS = [("blocked", torch.bfloat16), ("sdpa", torch.bfloat16), ("flex", torch.float32), ("flex", torch.bfloat16)] + [
    (name, dtype) for name in ("flash", "flash2", "flash3", "flash4") for dtype in (torch.bfloat16, torch.float16)
]
CASES = {
    # B, H, H_kv, T, window, lengths of each row's documents
    "all before": (2, 2, 2, 70, None, None),
    "a window": (2, 2, 2, 300, 70, None),
    "a window longer than the row": (1, 2, 2, 40, 60, None),
    "shared heads": (2, 6, 2, 140, None, None),
    "shared heads in a window": (1, 4, 1, 140, 30, None),
    "one token": (2, 2, 1, 1, None, None),
    "odd lengths": (1, 3, 3, 257, 129, None),
    "documents": (2, 2, 2, 160, None, [(30, 1, 1, 100, 28), (160,)]),
    "documents in a window": (2, 4, 2, 300, 40, [(128, 128, 44), (7, 250, 43)]),
    "a document longer than a block": (1, 2, 2, 400, None, [(100, 290, 10)]),
}


def tensors(B: int, H: int, H_kv: int, T: int, D: int, dtype: torch.dtype = torch.float64, seed: int = 0) -> list:
    """q, k, v and the gradient of the output."""
    generator = torch.Generator().manual_seed(seed)
    return [torch.randn(B, n, T, D, dtype=torch.float64, generator=generator).to(dtype) for n in (H, H_kv, H_kv, H)]


def numbered(lengths: list[tuple[int, ...]]) -> Tensor:
    """(B, T) documents; the first of a row has the number of the last one in the row before."""
    rows = [torch.repeat_interleave(torch.arange(len(row)), torch.tensor(row)) for row in lengths]
    return torch.stack([row - row[-1] * n for n, row in enumerate(rows)])


def plain(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    window: int | None,
    scale: float | None,
    documents: Tensor | None,
    slopes: Tensor | None = None,
) -> Tensor:
    """Each document by itself."""
    slope = 0.0 if slopes is None else slopes[:, None, None]
    group, scale = q.size(1) // k.size(1), q.size(-1) ** -0.5 if scale is None else scale
    k, v = k.repeat_interleave(group, dim=1), v.repeat_interleave(group, dim=1)
    if documents is None:
        return plain_softmax_attention(q, k, v, window, scale, slope)
    rows = []
    for b, row in enumerate(documents.tolist()):
        lengths = [len(list(document)) for _, document in itertools.groupby(row)]
        parts = zip(*(x[b].split(lengths, dim=1) for x in (q, k, v)))
        rows.append(torch.cat([plain_softmax_attention(*part, window, scale, slope) for part in parts], dim=1))
    return torch.stack(rows)


def assert_plain(
    backend: Backend, given: list, window: int | None, scale: float | None, documents: Tensor | None
) -> None:
    """Outputs and gradients are the plain ones, but for the rounding of their dtype."""
    *ours, dy = [x.to(DEVICE) for x in given]
    exact = [x.double().requires_grad_() for x in given[:3]]
    ours, tolerance = [x.requires_grad_() for x in ours], TOLERANCES[dy.dtype]
    y = backend(*ours, window, scale, None if documents is None else documents.to(DEVICE))
    slopes = None if backend.slopes is None else backend.slopes.cpu()
    expected = plain(*exact, window, scale, documents, slopes)
    assert y.shape == expected.shape and y.dtype == dy.dtype
    torch.testing.assert_close(y.double().cpu(), expected, rtol=tolerance, atol=tolerance)
    y.backward(dy)
    expected.backward(given[3].double())
    for a, b in zip(ours, exact):
        tolerance_of_gradient = tolerance * max(1.0, b.grad.abs().max().item())
        torch.testing.assert_close(a.grad.double().cpu(), b.grad, rtol=tolerance, atol=tolerance_of_gradient)


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize(("name", "dtype"), PLAIN + OF_GPUS, ids=lambda value: str(value).removeprefix("torch."))
def test_outputs_and_gradients_are_the_plain_ones(name: str, dtype: torch.dtype, case: str) -> None:
    backend = BACKENDS[name]()
    if reason := backend.why_not(DEVICE, dtype, 32):
        pytest.skip(reason)
    *shape, window, lengths = CASES[case]
    documents = None if lengths is None else numbered(lengths)
    scale = None if documents is None else 0.3
    assert_plain(backend, tensors(*shape, 32, dtype), window, scale, documents)


@settings(max_examples=40, deadline=None)
@given(
    T=st.integers(1, 2 * BLOCK_TOKENS + 60),
    window=st.none() | st.integers(1, 2 * BLOCK_TOKENS + 60),
    D=st.sampled_from([2, 6, 32]),
    heads=st.sampled_from([(1, 1), (2, 1), (4, 2), (3, 3)]),
    scale=st.sampled_from([None, 0.3]),
    cuts=st.none() | st.lists(st.integers(1, 2 * BLOCK_TOKENS + 60), max_size=6),
    kind=st.sampled_from([Blocked, SDPA]),
)
def test_any_shape_window_and_documents(T, window, D, heads, scale, cuts, kind):
    documents = None
    if cuts is not None:
        bounds = sorted({0, T, *(cut for cut in cuts if cut < T)})
        lengths = tuple(b - a for a, b in itertools.pairwise(bounds))
        documents = numbered([lengths, lengths[::-1]])
    assert_plain(kind(), tensors(2, *heads, T, D), window, scale, documents)


@pytest.mark.parametrize("window", [None, 1, BLOCK_TOKENS - 1, BLOCK_TOKENS, BLOCK_TOKENS + 1, 3 * BLOCK_TOKENS])
@pytest.mark.parametrize("T", [BLOCK_TOKENS, 2 * BLOCK_TOKENS + 1, 3 * BLOCK_TOKENS])
def test_edges_of_blocks(T, window):
    assert_plain(Blocked(), tensors(1, 2, 2, T, 32, torch.float32), window, None, None)
    documents = numbered([(BLOCK_TOKENS - 1, T - BLOCK_TOKENS, 1)])
    assert_plain(Blocked(), tensors(1, 2, 2, T, 32, torch.float32), window, None, documents)


def test_a_token_sees_its_window_and_itself_and_nothing_else():
    T, window = 300, 70
    q, k, v, _ = tensors(1, 1, 1, T, 8)
    v.requires_grad_()
    Blocked()(q, k, v, window)[0, 0, 250].sum().backward()
    seen = v.grad[0, 0].abs().sum(-1).nonzero().flatten().tolist()
    assert seen == list(range(250 - window, 251))


@pytest.mark.parametrize("kind", [Blocked, SDPA])
def test_views_that_are_not_contiguous_are_accepted(kind):
    given = [x.transpose(1, 2).contiguous().transpose(1, 2) for x in tensors(2, 4, 2, 40, 8)]
    given[3] = torch.randn(2, 4, 8, 40, dtype=torch.float64).transpose(2, 3)
    assert_plain(kind(), given, 9, None, None)


def test_large_scores_stay_finite():
    q, k, v, _ = tensors(1, 1, 1, 200, 16, dtype=torch.float32)
    q.requires_grad_()
    for documents in (None, numbered([(3, 190, 7)])):
        y = Blocked()(100 * q, 100 * k, v, 50, None, documents)
        y.sum().backward()
        assert y.isfinite().all() and q.grad.isfinite().all()


@pytest.mark.slow
@pytest.mark.parametrize("kind", [Blocked, SDPA])
def test_compiled_once_for_all_documents(kind):
    """A block is compiled; what differs between batches reaches it as tensors."""
    backend, shape = kind(), (2, 4, 2, 200, 16)
    attend = torch.compile(backend.attend, backend="eager", dynamic=False)
    for n, lengths in enumerate(([(30, 170), (200,)], [(200,), (1, 1, 198)], [(99, 100, 1), (50, 150)])):
        q, k, v, _ = tensors(*shape, seed=n)
        documents = numbered(lengths)
        seen = backend.see(2, 200, (60,), documents, q.device)[60]
        with torch._dynamo.config.patch(error_on_recompile=n > 0):
            y = attend(q.requires_grad_(), k, v, 60, 0.3, seen)
        torch.testing.assert_close(y, plain(q, k, v, 60, 0.3, documents))
