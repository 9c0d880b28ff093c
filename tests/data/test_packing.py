"""Best-fit packing against a plain O(n) twin."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nanochat_pl.data import packing
from nanochat_pl.data.packing import BestFitPacker, PackerState, Piece
from tests.data.twin import naive_rows

BOS = 0
Lengths = st.lists(st.integers(1, 12), min_size=1, max_size=60)


def pieces_of(lengths: list[int], sequence_len: int) -> list[Piece]:
    """Pieces whose tokens are all different, so that every token in a row tells where it comes from."""
    pieces, token = [], 1
    for i, length in enumerate(lengths):
        length = min(length, sequence_len)
        pieces.append(Piece(np.arange(token, token + length, dtype=np.uint32), (0, 0, i, 0), (0, 0, i + 1, 0)))
        token += length
    return pieces


@settings(deadline=None)
@given(Lengths, st.integers(2, 10), st.integers(1, 8))
def test_rows_equal_those_of_a_plain_scan(lengths: list[int], sequence_len: int, buffer_documents: int) -> None:
    pieces = pieces_of(lengths, sequence_len)
    packer = BestFitPacker(iter(pieces), BOS, buffer_documents)
    rows = []
    row = np.empty(sequence_len + 1, dtype=np.int64)
    while packer.fill(row):
        rows.append(row.tolist())
    assert rows == naive_rows([piece.ids.tolist() for piece in pieces], sequence_len, buffer_documents, BOS)
    assert all(row[0] == BOS for row in rows)


def test_no_piece_waits_for_good(monkeypatch: pytest.MonkeyPatch) -> None:
    def longest_wait() -> int:
        """In pieces that arrived meanwhile."""
        lengths = np.random.default_rng(0).lognormal(4, 0.9, 6000).astype(int) + 1
        packer = BestFitPacker(iter(pieces_of(lengths.tolist(), 200)), BOS, 64)
        row, longest = np.empty(201, dtype=np.int64), 0
        while packer.fill(row):
            state = packer.snapshot()
            longest = max(longest, state.pieces + len(state.held) - min(state.arrivals, default=0))
        return longest

    assert longest_wait() <= 9 * 64
    monkeypatch.setattr(packing, "WAIT_BUFFERS", 10**6)
    assert longest_wait() > 20 * 64


@settings(deadline=None)
@given(Lengths, st.integers(2, 10), st.integers(1, 8))
def test_every_token_is_placed_or_counted_as_cropped(
    lengths: list[int], sequence_len: int, buffer_documents: int
) -> None:
    pieces = pieces_of(lengths, sequence_len)
    packer = BestFitPacker(iter(pieces), BOS, buffer_documents)
    placed: list[int] = []
    row = np.empty(sequence_len + 1, dtype=np.int64)
    while True:
        complete = packer.fill(row)
        placed += [token for token in row[: packer.filled].tolist() if token != BOS]
        if not complete:
            break
    state = packer.snapshot()
    assert len(placed) == len(set(placed))
    assert len(placed) + state.cropped_tokens == sum(len(piece.ids) for piece in pieces)
    assert state.pieces == len(pieces) and not state.held


@settings(deadline=None)
@given(Lengths, st.integers(2, 10), st.integers(1, 8), st.integers(0, 20))
def test_a_packer_goes_on_from_its_snapshot(
    lengths: list[int], sequence_len: int, buffer_documents: int, stop: int
) -> None:
    pieces = pieces_of(lengths, sequence_len)
    row, same = np.empty(sequence_len + 1, dtype=np.int64), np.empty(sequence_len + 1, dtype=np.int64)
    packer = BestFitPacker(iter(pieces), BOS, buffer_documents)
    for _ in range(stop):
        if not packer.fill(row):
            return
    state = packer.snapshot()
    held = tuple(piece for piece in pieces if piece.reference in state.held)
    rest = iter(pieces[state.position[2] :])
    resumed = BestFitPacker(rest, BOS, buffer_documents, held, state)
    while packer.fill(row):
        assert resumed.fill(same)
        assert (row == same).all()
    assert not resumed.fill(same)
    assert resumed.filled == packer.filled


def test_a_snapshot_does_not_change_with_its_packer() -> None:
    packer = BestFitPacker(iter(pieces_of([3, 4, 5, 6], 8)), BOS, 3)
    row = np.empty(9, dtype=np.int64)
    packer.fill(row)
    before = packer.snapshot()
    copy = PackerState(*before)
    packer.fill(row)
    assert before == copy != packer.snapshot()
