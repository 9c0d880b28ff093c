"""FlexAttention's block masks, and its kernel where it runs; on a CPU that has no gradient."""

import pytest
import torch
from torch.nn.attention.flex_attention import create_block_mask

from nanochat_pl.nn.attention import flex
from nanochat_pl.nn.attention.backend import document_starts
from nanochat_pl.nn.attention.flex import Flex, _compiled
from nanochat_pl.nn.position import alibi_slopes
from tests.nn.test_attention import numbered, plain, tensors

pytestmark = pytest.mark.filterwarnings("ignore:flex_attention called without torch.compile")
DOCUMENTS = [None, [(300, 100, 1, 1, 98), (500,)], [(128, 256, 116), (127, 1, 129, 243)]]


def blocks(counts: torch.Tensor, indices: torch.Tensor) -> list:
    """The numbers that count, of each row."""
    return [ids[:n] for n, ids in zip(counts.flatten().tolist(), indices.flatten(0, -2).tolist())]


@pytest.mark.parametrize("lengths", DOCUMENTS)
@pytest.mark.parametrize("window", [1, 127, 128, 200, 499, 800])
def test_block_masks_are_those_of_the_whole_mask(window, lengths):
    T = 500
    documents = None if lengths is None else numbered(lengths)
    starts = torch.zeros(2, T, dtype=torch.int64) if documents is None else document_starts(documents)

    def sees(b, h, query, key):
        return (key <= query) & (query - key <= window) & (key >= starts[b, query])

    ours = Flex().see(2, T, (window,), documents, torch.device("cpu"))[window]
    expected = create_block_mask(sees, None if documents is None else 2, None, T, T, device="cpu")
    assert ours.shape == expected.shape and ours.BLOCK_SIZE == expected.BLOCK_SIZE
    for name in ("kv", "full_kv", "q", "full_q"):
        counts, indices = f"{name}_num_blocks", f"{name}_indices"
        assert getattr(ours, counts).dtype == getattr(ours, indices).dtype == torch.int32
        assert blocks(getattr(ours, counts), getattr(ours, indices)) == blocks(
            getattr(expected, counts), getattr(expected, indices)
        ), name
    places = torch.arange(T)
    for b in range(2):
        ours_seen = ours.mask_mod(torch.tensor(b), torch.tensor(0), places[:, None], places)
        assert torch.equal(ours_seen, sees(b, 0, places[:, None], places))


def test_without_documents_a_block_mask_is_made_once():
    device = torch.device("cpu")
    with torch.inference_mode():
        first = Flex().see(2, 300, (40, 299), None, device)
    again = Flex().see(4, 300, (40, 500), None, device)
    assert first[40] is again[40] and first[299] is again[500]
    assert not first[40].kv_indices.is_inference(), "training may use it after an evaluation has made it"


@pytest.mark.parametrize("lengths", DOCUMENTS[:2])
def test_outputs_on_this_device(lengths):
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    documents = None if lengths is None else numbered(lengths)
    q, k, v, _ = (x.to(device) for x in tensors(2, 4, 2, 500, 16, torch.float32))
    y = Flex()(q, k, v, 90, 0.3, None if documents is None else documents.to(device))
    expected = plain(*(x.double().cpu() for x in (q, k, v)), 90, 0.3, documents)
    torch.testing.assert_close(y.double().cpu(), expected, rtol=2e-5, atol=2e-5)


@pytest.mark.slow
@pytest.mark.parametrize("slopes", [None, torch.tensor(alibi_slopes(4))])
def test_compiled_once_for_all_documents(slopes):
    backend = Flex(slopes)
    attend = torch.compile(backend.attend, backend="eager", dynamic=False)
    for n, lengths in enumerate([[(30, 170), (200,)], [(200,), (1, 1, 198)], [(99, 100, 1), (50, 150)]]):
        q, k, v, _ = tensors(2, 4, 2, 200, 16, torch.float32, seed=n)
        documents = numbered(lengths)
        seen = backend.see(2, 200, (60,), documents, q.device)[60]
        with torch._dynamo.config.patch(error_on_recompile=n > 0):
            y = attend(q, k, v, 60, 0.3, seen)
        expected = plain(q.double(), k.double(), v.double(), 60, 0.3, documents, slopes)
        torch.testing.assert_close(y.double(), expected, rtol=2e-5, atol=2e-5)


@pytest.mark.slow
@pytest.mark.parametrize("slopes", [None, torch.tensor(alibi_slopes(4))])
def test_the_compiled_kernel_gives_the_same(slopes, monkeypatch):
    q, k, v, _ = tensors(2, 4, 2, 300, 32, torch.float32)
    documents = numbered([(200, 100), (30, 270)])
    monkeypatch.setattr(flex, "_kernel", lambda device_type: _compiled())
    y = Flex(slopes)(q, k, v, 90, 0.3, documents)
    expected = plain(q.double(), k.double(), v.double(), 90, 0.3, documents, slopes)
    torch.testing.assert_close(y.double(), expected, rtol=2e-5, atol=2e-5)
