"""The data module: the same rows on any number of ranks, in any micro-batches, after any stop."""

import itertools
import math
from collections import Counter
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from nanochat_pl.core.errors import UserError
from nanochat_pl.core.types import IGNORE_INDEX, StepBatch
from nanochat_pl.data.module import Layout, TextDataModule
from nanochat_pl.data.packing import Packing
from nanochat_pl.data.sources import DocumentSource, MemorySource
from nanochat_pl.data.state import DataState
from nanochat_pl.data.stream import Dealer
from nanochat_pl.tokenizers.specs import ByteSpec
from tests.data.twin import naive_rows

TOKENIZER = ByteSpec().build()
VAL = MemorySource(["held out text", "and more of it " * 9])


def documents(lengths: list[int]) -> list[str]:
    return [f"{i}:" + "abcdefghij" * (length // 10) + "z" * (length % 10) for i, length in enumerate(lengths)]


class ShardedSource(DocumentSource):
    """Shards of different sizes, some of them empty; a chunk holds at most three documents."""

    fingerprint = "sharded"

    def __init__(self, texts: list[str], sizes: list[int]):
        rest, self.shards = iter(texts), []
        while shard := list(itertools.islice(rest, sizes[len(self.shards) % len(sizes)])):
            self.shards += [shard, []]
        self.num_shards = len(self.shards)

    def num_chunks(self, shard: int) -> int:
        return -(-len(self.shards[shard]) // 3)

    def read_chunk(self, shard: int, chunk: int) -> list[str]:
        return self.shards[shard][3 * chunk : 3 * chunk + 3]


def module(source: DocumentSource, layout: Layout, **options: Any) -> TextDataModule:
    return TextDataModule(source, VAL, TOKENIZER, layout, **{"seed": 5, "buffer_documents": 4, **options})


def train(data: TextDataModule, steps: int) -> list[torch.Tensor]:
    """The rows (R/W, T+1) of each of the next steps, each committed; one batch is fetched ahead, as Lightning does."""
    batches = iter(data.train_dataloader())
    ahead = next(batches)
    result = []
    for _ in range(steps):
        step: list[StepBatch] = []
        for _ in range(data.micro_batches_per_step):
            step.append(ahead)
            ahead = next(batches)
        assert all(batch.cursor.streams is None for batch in step[:-1])
        data.commit(step[-1].cursor)
        result.append(torch.cat([torch.cat([b.inputs, b.targets[:, -1:]], 1) for b in step]))
        for batch in step:
            assert torch.equal(batch.inputs[:, 1:], batch.targets[:, :-1])
    return result


def saved(ranks: list[TextDataModule]) -> dict[str, Any]:
    """What all ranks together would save, without a process group."""
    states = [DataState.from_plain(rank.state_dict()) for rank in ranks]
    streams = {stream: state for part in states for stream, state in part.streams.items()}
    return DataState(states[0].fingerprint, states[0].rows, streams).as_plain()


def run(
    source: DocumentSource, plan: list[tuple[int, int, int]], streams: int, rows: int, T: int, **options: Any
) -> Any:
    """Train legs of (steps, W, micro-batch), each resumed from the one before; the rows of every step, in order."""
    return run_and_save(source, plan, streams, rows, T, **options)[0]


def run_and_save(
    source: DocumentSource, plan: list[tuple[int, int, int]], streams: int, rows: int, T: int, **options: Any
) -> tuple[torch.Tensor, Any]:
    """The rows, and the state at the end."""
    state, result = None, []
    for steps, world_size, micro_batch in plan:
        layouts = [Layout(T, rows, micro_batch, streams, rank, world_size) for rank in range(world_size)]
        ranks = [module(source, layout, **options) for layout in layouts]
        if state is not None:
            for rank in ranks:
                rank.load_state_dict(state)
        first = DataState.from_plain(state).rows if state is not None else 0
        parts = [train(rank, steps) for rank in ranks]
        for step in range(steps):
            whole = torch.empty(rows, T + 1, dtype=torch.int64)
            start = first + step * rows
            for rank, part in enumerate(parts):
                whole[(rank - start) % world_size :: world_size] = part[step]
            result.append(whole)
        state = saved(ranks)
    return torch.stack(result), state


Legs = st.lists(st.tuples(st.integers(1, 4), st.integers(1, 4), st.integers(1, 5)), min_size=1, max_size=4)


@settings(max_examples=25, deadline=None)
@given(
    st.lists(st.integers(0, 60), min_size=1, max_size=40).filter(lambda lengths: sum(lengths) > 40),
    st.integers(1, 3),
    st.integers(1, 3),
    st.integers(1, 24),
    Legs,
    st.sampled_from(["best_fit", "windows"]),
    st.none() | st.lists(st.integers(1, 20), min_size=1, max_size=4),
)
def test_stops_ranks_and_micro_batches_change_no_row(
    lengths: list[int],
    streams_each: int,
    rows_each: int,
    T: int,
    legs: list[tuple[int, int, int]],
    packing: Packing,
    shards: list[int] | None,
) -> None:
    source = ShardedSource(documents(lengths), shards) if shards else MemorySource(documents(lengths))
    ranks = math.lcm(*(world_size for _, world_size, _ in legs))
    streams, rows = streams_each * ranks, rows_each * ranks
    whole = run(source, [(sum(steps for steps, _, _ in legs), 1, rows)], streams, rows, T, packing=packing)
    assert torch.equal(run(source, legs, streams, rows, T, packing=packing), whole)


@pytest.mark.parametrize("count", [1, 3, 20, 300])
def test_rows_equal_those_of_a_plain_twin_over_several_epochs(count: int) -> None:
    T, V, rows, seed, buffer = 16, 4, 6, 5, 4
    texts = documents([(7 * i) % 45 + (40 if count == 1 else 0) for i in range(count)])
    source = MemorySource(texts)
    data = module(source, Layout(T, rows, 4, V), seed=seed, buffer_documents=buffer)
    steps = 3 * sum(map(len, texts)) // (rows * T) + 2
    got = torch.cat(train(data, steps))
    assert data.counters()["epoch"] >= 1
    for stream in range(V):
        own = got[stream::V].tolist()
        pieces = _twin_pieces(data._dealer(), stream, T, need=len(own) * (T + 1))
        assert own == naive_rows(pieces, T, buffer, TOKENIZER.bos_id)[: len(own)]


def _twin_pieces(dealer: Dealer, stream: int, T: int, need: int) -> list[list[int]]:
    """The stream's pieces in its order, enough for `need` tokens and more."""
    pieces: list[list[int]] = []
    for slot in itertools.count():
        for place, chunk in enumerate(dealer.chunks(stream, slot)):
            for row, text in enumerate(dealer.documents(slot, chunk)):
                ids = TOKENIZER.encode_batch([text])[0]
                pieces += [piece.ids.tolist() for piece in dealer.cut(ids, T, slot, chunk, place, row)]
        if sum(map(len, pieces)) > 3 * need + 1000:
            return pieces
    raise AssertionError


@pytest.mark.parametrize("sizes", [None, [30, 7, 1]])
def test_every_document_is_trained_on_once_an_epoch(sizes: list[int] | None) -> None:
    texts = [f"<{i:03d}>" for i in range(200)]
    data = module(ShardedSource(texts, sizes) if sizes else MemorySource(texts), Layout(23, 8, 8, 4))
    rows = torch.cat(train(data, 40))
    assert data.counters()["cropped_tokens"] == 0
    found = "".join(TOKENIZER.decode([t for t in row.tolist() if t != TOKENIZER.bos_id]) for row in rows)
    seen = [int(part[1:]) for part in found.split(">") if part]
    held = 4 * 4 * 2
    times = [seen.count(i) for i in range(200)]
    epochs = len(seen) / 200
    assert epochs > 4 and sum(times) == len(seen)
    assert max(times) - min(times) <= 2 and abs(epochs - min(times)) < 2 + held / 200


@settings(max_examples=5, deadline=None)
@given(st.lists(st.integers(1, 4), min_size=12, max_size=12), st.lists(st.sampled_from([1, 2, 4, 8]), min_size=12))
def test_every_document_once_an_epoch_over_three_epochs_with_stops(steps: list[int], ranks: list[int]) -> None:
    """What was trained on is, document by document, what the streams have taken and no longer hold."""
    texts = [f"<{i:03d}>" for i in range(90)]  # with its BOS 6 tokens, and a row is 4 of them: nothing is cropped
    source, legs = ShardedSource(texts, [40, 17, 3]), list(zip(steps, ranks, itertools.cycle([1, 3])))
    rows, state = run_and_save(source, [*legs, (8, 8, 1)], 8, 8, 23)
    found = "".join(TOKENIZER.decode([t for t in row.tolist() if t != TOKENIZER.bos_id]) for row in rows.flatten(0, 1))
    trained = Counter(part + ">" for part in found.split(">") if part)
    dealer, taken, held = Dealer(source, 8, 5), Counter[str](), Counter[str]()
    for stream, packer in DataState.from_plain(state).streams.items():
        slot, place, row, _ = packer.position
        for s in range(slot + 1):
            for p, chunk in enumerate(dealer.chunks(stream, s)):
                documents = dealer.documents(s, chunk)
                taken.update(
                    documents if (s, p) < (slot, place) else documents[:row] if (s, p) == (slot, place) else []
                )
                held.update(documents[r[2]] for r in packer.held if r[:2] == (s, p))
    assert trained + held == taken
    epochs = min(packer.position[0] for packer in DataState.from_plain(state).streams.values()) // source.num_shards
    assert epochs >= 3 and min(taken[text] for text in texts) >= epochs
    assert sum(trained.values()) == rows.shape[0] * 8 * 4


def test_eight_ranks_then_one_two_and_eight_again() -> None:
    source = ShardedSource(documents([(7 * i) % 45 for i in range(120)]), [50, 9])
    legs = [(3, 8, 1), (2, 1, 5), (3, 2, 2), (4, 8, 2)]
    assert torch.equal(run(source, legs, 8, 16, 12), run(source, [(12, 1, 16)], 8, 16, 12))


def test_a_batch_moves_to_a_device_as_it_is() -> None:
    data = module(MemorySource(documents(list(range(40)))), Layout(16, 4, 2, 4))
    batch = next(iter(data.train_dataloader()))
    assert batch.inputs.is_contiguous() and batch.inputs._base is batch.targets._base
    for other in (batch, next(iter(data.val_dataloader()))):
        same = data.transfer_batch_to_device(other, torch.device("cpu"), 0)
        assert torch.equal(same.inputs, other.inputs) and torch.equal(same.targets, other.targets)
        moved = data.transfer_batch_to_device(other, torch.device("meta"), 0)
        assert moved.inputs.is_meta and moved.targets.shape == other.targets.shape and moved.cursor is other.cursor


def test_fetching_ahead_without_commit_is_forgotten() -> None:
    source, layout = MemorySource(documents(list(range(40)))), Layout(16, 4, 2, 4)
    data = module(source, layout)
    first = train(data, 2)
    state = data.state_dict()
    batches = iter(data.train_dataloader())
    abandoned = [next(batches) for _ in range(5)]
    assert data.state_dict() == state
    again = iter(data.train_dataloader())
    assert torch.equal(next(again).inputs, abandoned[0].inputs)
    assert not torch.equal(first[0], first[1])


def test_the_state_is_plain_and_survives_a_safe_load(tmp_path: Any) -> None:
    source, layout = MemorySource(documents(list(range(40)))), Layout(16, 4, 2, 4)
    data = module(source, layout)
    train(data, 3)
    torch.save(data.state_dict(), tmp_path / "state.pt")
    state = torch.load(tmp_path / "state.pt", weights_only=True)
    resumed = module(source, layout)
    resumed.load_state_dict(state)
    assert resumed.state_dict() == data.state_dict()
    assert torch.equal(train(resumed, 1)[0], train(data, 1)[0])


@pytest.mark.parametrize(
    "change",
    [
        {"seed": 6},
        {"buffer_documents": 5},
        {"packing": "windows"},
        {"sequence_len": 8},
        {"streams": 8},
        {"source": "more"},
    ],
)
def test_a_state_of_other_data_is_refused(change: dict[str, Any]) -> None:
    texts = documents(list(range(40)))
    state = module(MemorySource(texts), Layout(16, 4, 2, 4)).state_dict()
    name = next(iter(change))
    other = MemorySource([*texts, "new"] if name == "source" else texts)
    layout = Layout(change.pop("sequence_len", 16), 4, 2, change.pop("streams", 4))
    change.pop("source", None)
    with pytest.raises(UserError, match="training data" if name == "source" else name):
        module(other, layout, **change).load_state_dict(state)


def test_layouts_that_cannot_be_shared_name_the_nearest_legal_ones() -> None:
    with pytest.raises(UserError, match=r"streams is 16.*15 or 18"):
        Layout(16, 6, 2, 16, 0, 3)
    with pytest.raises(UserError, match=r"rows_per_step is 6.*4 or 8"):
        Layout(16, 6, 2, 16, 0, 4)
    with pytest.raises(UserError, match="micro_batch_rows"):
        Layout(16, 6, 0)


def test_text_shorter_than_a_row_is_refused() -> None:
    with pytest.raises(UserError, match="only 6 tokens"):
        module(MemorySource(["short"]), Layout(16, 4, 2, 4)).check_length()
    module(MemorySource(["sixteen letters!"]), Layout(16, 4, 2, 4)).check_length()


@pytest.mark.parametrize("packing", ["best_fit", "windows"])
@pytest.mark.parametrize("val_tokens", [None, 48])
def test_validation_rows_are_the_same_on_any_number_of_ranks(packing: Packing, val_tokens: int | None) -> None:
    source = MemorySource(documents(list(range(40))))

    def counted(world_size: int, micro_batch: int) -> list[tuple[list[int], list[int]]]:
        rows, batches = [], []
        for rank in range(world_size):
            layout = Layout(16, 8, micro_batch, 8, rank, world_size)
            own = list(module(source, layout, packing=packing, val_tokens=val_tokens).val_dataloader())
            rows += [pair for batch in own for pair in zip(batch.inputs.tolist(), batch.targets.tolist())]
            batches.append(len(own))
        assert len(set(batches)) == 1
        return sorted(pair for pair in rows if any(target != IGNORE_INDEX for target in pair[1]))

    one = counted(1, 3)
    assert one and one == counted(4, 1) == counted(8, 2)
    if val_tokens:
        assert len(one) == val_tokens // 16
    else:
        targets = Counter(token for _, row in one for token in row)
        targets.pop(IGNORE_INDEX, None)
        targets.pop(TOKENIZER.bos_id, None)
        whole = Counter(("held out text" + "and more of it " * 9).encode())
        assert targets == whole if packing == "windows" else targets <= whole
