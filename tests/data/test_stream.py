"""What streams deal: every document once an epoch, from any position on."""

from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from itertools import islice

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nanochat_pl.core.errors import UserError
from nanochat_pl.data import stream as stream_module
from nanochat_pl.data.order import permutation
from nanochat_pl.data.packing import START
from nanochat_pl.data.sources import MemorySource
from nanochat_pl.data.stream import Dealer, PieceStream, load_pieces
from nanochat_pl.tokenizers.specs import ByteSpec

TOKENIZER = ByteSpec().build()
POOL = ThreadPoolExecutor(2)


def documents(count: int, length: int = 0) -> list[str]:
    return [f"document {i} " + "x" * (length * (i % 5)) for i in range(count)]


@settings(deadline=None)
@given(st.integers(1, 200), st.integers(1, 20), st.integers(0, 3), st.integers(1, 3))
def test_every_document_is_dealt_once_an_epoch(count: int, streams: int, seed: int, epochs: int) -> None:
    source = MemorySource(documents(count))
    dealer = Dealer(source, streams, seed)
    seen: Counter[tuple[int, str]] = Counter()
    for stream in range(streams):
        for slot in range(epochs * source.num_shards):
            for chunk in dealer.chunks(stream, slot):
                seen.update((dealer.shard(slot)[0], text) for text in dealer.documents(slot, chunk))
    assert seen == Counter((epoch, text) for epoch in range(epochs) for text in documents(count))


def test_a_stream_without_any_document_says_so() -> None:
    class Empty(MemorySource):
        num_shards = 3

        def num_chunks(self, shard: int) -> int:
            return 0

    stream = PieceStream(Dealer(Empty(["left out"]), 4, 0), 1, TOKENIZER, 8, POOL)
    with pytest.raises(UserError, match="no document"):
        next(stream)


def test_epochs_and_seeds_have_their_own_orders() -> None:
    source = MemorySource(documents(100))
    orders = {tuple(Dealer(source, 1, seed).chunks(0, epoch)) for seed in (1, 2) for epoch in (0, 1)}
    assert len(orders) == 4
    assert all(sorted(order) == list(range(source.num_chunks(0))) for order in orders)


def test_the_order_is_the_same_in_every_version() -> None:
    # A resumed run depends on these numbers: they may not change.
    assert permutation(10, 42, 0, 1).tolist() == [6, 7, 8, 4, 1, 5, 2, 0, 9, 3]


@settings(max_examples=40, deadline=None)
@given(st.integers(1, 30), st.integers(1, 5), st.integers(1, 40), st.integers(0, 60), st.integers(1, 3))
def test_a_stream_goes_on_from_any_piece(count: int, streams: int, sequence_len: int, stop: int, job: int) -> None:
    dealer = Dealer(MemorySource(documents(count, 30)), streams, 7)
    arguments = (dealer, streams - 1, TOKENIZER, sequence_len, POOL)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(stream_module, "AHEAD_DOCUMENTS", job)
        whole = list(islice(PieceStream(*arguments), stop + 40))
        position = whole[stop - 1].after if stop else START
        resumed = list(islice(PieceStream(*arguments, position), 40))
    assert [(p.reference, p.ids.tolist()) for p in resumed] == [(p.reference, p.ids.tolist()) for p in whole[stop:]]
    references = [piece.reference for piece in whole[stop::3]]
    again = load_pieces(dealer, streams - 1, TOKENIZER, sequence_len, reversed(references))
    assert [p.ids.tolist() for p in again] == [p.ids.tolist() for p in whole[stop::3]]


def test_the_parts_of_a_long_document_are_the_document() -> None:
    text = "".join(chr(ord("a") + i % 26) for i in range(1000))
    dealer = Dealer(MemorySource([text, ""]), 1, 3)
    pieces = list(islice(PieceStream(dealer, 0, TOKENIZER, 64, POOL), 16))
    assert sorted(len(piece.ids) for piece in pieces) == [1000 - 15 * 64] + [64] * 15
    starts = {bytes(piece.ids.tolist()): text.encode().find(bytes(piece.ids.tolist())) for piece in pieces}
    assert all(start >= 0 for start in starts.values())
    assert Counter(b for piece in pieces for b in piece.ids.tolist()) == Counter(text.encode())


def test_references_to_documents_that_are_gone_are_reported() -> None:
    dealer = Dealer(MemorySource(["one", "two"]), 1, 3)
    with pytest.raises(UserError, match="no longer have"):
        load_pieces(dealer, 0, TOKENIZER, 8, [(0, 5, 0, 0)])
