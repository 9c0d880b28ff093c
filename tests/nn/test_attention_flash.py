"""What the FlashAttention backends hand to their kernels; these themselves run on NVIDIA GPUs only (test_attention)."""

import pytest
import torch
from torch import Tensor

from nanochat_pl.nn.attention.flash import Flash, Flash2, document_bounds
from tests.nn.test_attention import CASES, assert_plain, numbered, tensors
from tests.reference.plain_gpt import plain_softmax_attention


def sequences(q: Tensor, k: Tensor, v: Tensor, bounds_q: Tensor, bounds_k: Tensor, window: int, scale: float) -> Tensor:
    """(tokens, heads, D): attention in each sequence, as the kernels document it."""
    assert bounds_q.dtype == torch.int32 and torch.equal(bounds_q, bounds_k)
    assert bounds_q[0] == 0 and bounds_q[-1] == len(q) and (bounds_q.diff() >= 0).all()
    group = q.size(1) // k.size(1)
    k, v = k.repeat_interleave(group, dim=1), v.repeat_interleave(group, dim=1)
    lengths = bounds_q.diff().tolist()
    parts = zip(*(x.transpose(0, 1).split(lengths, dim=1) for x in (q, k, v)))
    window = None if window == -1 else window
    return torch.cat([plain_softmax_attention(*part, window, scale) for part in parts], dim=1).transpose(0, 1)


def varlen_attn(q, k, v, cu_seq_q, cu_seq_k, max_q, max_k, *, scale, window_size, enable_gqa):
    assert max_q == max_k >= cu_seq_q.diff().max() and window_size[1] == 0 and enable_gqa
    return sequences(q, k, v, cu_seq_q, cu_seq_k, window_size[0], scale)


def flash_attn_varlen_func(
    q, k, v, cu_seqlens_q, cu_seqlens_k, max_seqlen_q, max_seqlen_k, softmax_scale, causal, window_size
):
    assert max_seqlen_q == max_seqlen_k >= cu_seqlens_q.diff().max() and causal and window_size[1] == 0
    return sequences(q, k, v, cu_seqlens_q, cu_seqlens_k, window_size[0], softmax_scale)


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("kind", [Flash, Flash2])
def test_kernels_of_sequences_are_asked_for_the_plain_result(kind, case):
    backend = kind()
    backend._function, backend._options = {Flash: varlen_attn, Flash2: flash_attn_varlen_func}[kind], {"enable_gqa": 1}
    *shape, window, lengths = CASES[case]
    assert_plain(backend, tensors(*shape, 16), window, 0.3, None if lengths is None else numbered(lengths))


def test_bounds_of_documents():
    documents = torch.tensor([[4, 4, 5, 5, 5], [5, 5, 9, 1, 1], [1, 1, 1, 1, 1]])
    bounds = document_bounds(documents)
    assert bounds.tolist() == [0, 2, 5, 7, 8, 10, 15, 15, 15], "a row begins a document; empty ones fill up to eight"
    assert document_bounds(torch.zeros(1, 7)).tolist() == [0, 7]
    assert document_bounds(torch.arange(4)[None]).tolist() == [0, 1, 2, 3, 4]


@pytest.mark.parametrize("compiled", [False, pytest.param(True, marks=pytest.mark.slow)])
def test_torchs_kernels_accept_what_they_are_given(compiled):
    """Shapes and arguments alone, which need no GPU."""
    backend = Flash()
    backend.load()
    sizes, options = [(2, heads, 100, 16) for heads in (4, 2, 2)], {"device": "meta", "dtype": torch.bfloat16}
    q, k, v = (torch.empty(size, **options, requires_grad=True) for size in sizes)
    bounds = document_bounds(numbered([(30, 70), (100,)])).to("meta")
    attend = backend.attend
    if compiled:
        attend = torch.compile(attend, backend="aot_eager", fullgraph=True, dynamic=False)
    y = attend(q, k, v, 40, 0.3, bounds)
    assert y.shape == q.shape and y.dtype == torch.bfloat16
    gradients = torch.autograd.grad(y.float().sum(), (q, k, v))
    assert [gradient.shape for gradient in gradients] == [q.shape, k.shape, v.shape]


def test_what_is_compiled_takes_any_number_of_documents():
    torch.compiler.reset()
    last = torch.compile(lambda bounds: bounds[-1] + bounds.size(0), dynamic=False, backend="eager")
    with torch._dynamo.config.patch(error_on_recompile=True):
        for count in (1, 3, 9):
            bounds = document_bounds(numbered([(4,) * count]))
            assert last(bounds) == 4 * count + len(bounds)
