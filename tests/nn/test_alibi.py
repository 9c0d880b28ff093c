"""ALiBi against the whole T x T matrix of scores, and in memory that grows with T."""

import dataclasses

import pytest
import torch

from nanochat_pl.core.errors import UserError
from nanochat_pl.nn.attention.backend import Backend
from nanochat_pl.nn.attention.blocked import BLOCK_TOKENS, Blocked
from nanochat_pl.nn.attention.choose import choose
from nanochat_pl.nn.attention.flex import Flex
from nanochat_pl.nn.position import alibi_slopes
from nanochat_pl.planning.trace import trace
from tests.models.test_nanochat import TINY
from tests.nn.test_attention import CASES, assert_plain, numbered, plain, tensors
from tests.reference.plain_gpt import slopes_of

CPU = torch.device("cpu")


def sloping(kind: type[Backend], heads: int) -> Backend:
    return kind(torch.tensor(alibi_slopes(heads)))


def test_slopes_are_the_published_ones() -> None:
    assert alibi_slopes(8) == (1 / 2, 1 / 4, 1 / 8, 1 / 16, 1 / 32, 1 / 64, 1 / 128, 1 / 256)
    assert alibi_slopes(16) == pytest.approx([2 ** (-i / 2) for i in range(1, 17)])
    # get_slopes(12) of the paper's code: those of 8 heads, then the first, third, ... of 16
    assert alibi_slopes(12) == pytest.approx([*alibi_slopes(8), 0.70710678, 0.35355339, 0.17677670, 0.08838835])
    for heads in range(1, 41):
        assert alibi_slopes(heads) == pytest.approx(slopes_of(heads))


@pytest.mark.parametrize("case", CASES)
def test_outputs_and_gradients_are_the_plain_ones(case: str) -> None:
    *shape, window, lengths = CASES[case]
    documents = None if lengths is None else numbered(lengths)
    backend = sloping(Blocked, shape[1])
    assert_plain(backend, tensors(*shape, 32), window, 0.3, documents)
    assert_plain(backend, tensors(*shape, 32, torch.float32), window, None, documents)


@pytest.mark.parametrize("T", [BLOCK_TOKENS, 3 * BLOCK_TOKENS + 1])
@pytest.mark.parametrize("window", [None, 1, BLOCK_TOKENS, 2 * BLOCK_TOKENS - 1])
def test_edges_of_blocks(T: int, window: int | None) -> None:
    assert_plain(sloping(Blocked, 3), tensors(1, 3, 3, T, 8), window, None, None)


def test_distances_are_exact_in_bfloat16() -> None:
    """A distance of 4095 has no bfloat16 of its own; what counts is near, where the scores are."""
    q, k, v, _ = tensors(1, 8, 8, 600, 16)
    y = sloping(Blocked, 8)(*(x.bfloat16() for x in (q, k, v)))
    torch.testing.assert_close(
        y.double(), plain(q, k, v, None, None, None, torch.tensor(alibi_slopes(8))), rtol=0, atol=0.04
    )


@pytest.mark.filterwarnings("ignore:flex_attention called without torch.compile")
@pytest.mark.parametrize("lengths", [None, [(300, 100, 1, 1, 98), (500,)]])
def test_flex_attention_computes_the_same(lengths: list | None) -> None:
    """Without a kernel, as FlexAttention does on a CPU."""
    q, k, v, _ = tensors(2, 6, 2, 500, 16, torch.float32)
    documents = None if lengths is None else numbered(lengths)
    backend = sloping(Flex, 6)
    y = backend(q, k, v, 90, 0.3, documents)
    expected = plain(q.double(), k.double(), v.double(), 90, 0.3, documents, backend.slopes)
    torch.testing.assert_close(y.double(), expected, rtol=2e-5, atol=2e-5)


def test_memory_is_linear_in_the_length() -> None:
    """Of a forward and a backward pass: all that lives at any moment, and what is kept in between."""
    config = dataclasses.replace(TINY, position="alibi", window_pattern="L", n_layer=2)
    assert config.slopes is not None
    one, four = (trace(dataclasses.replace(config, sequence_len=T), 1, "cpu") for T in (2048, 8192))
    assert four.activations <= 4 * one.activations and four.peak <= 4.1 * one.peak
    square = 8192**2 * 4
    assert four.peak < square


def test_what_cannot_lose_by_distance_is_told_with_what_can() -> None:
    for name in ("sdpa", "flash", "flash2", "flash3", "flash4"):
        with pytest.raises(UserError) as error:
            choose(name, "cpu", torch.float32, slopes=alibi_slopes(4))
        for words in (f"hw.attention={name} ", "model.position=alibi", "flex, blocked", "hw.attention=blocked"):
            assert words in str(error.value)
    found = choose("blocked", "cpu", torch.float32, slopes=alibi_slopes(4)).slopes
    assert found is not None and found.tolist() == [2**-2, 2**-4, 2**-6, 2**-8]


def test_what_is_compiled_for_each_length_reads_no_prompts() -> None:
    flex = sloping(Flex, 4)
    assert isinstance(flex.for_prompts(), Blocked) and flex.for_prompts().slopes is flex.slopes
