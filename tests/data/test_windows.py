"""Random windows: stateless, of the whole text, as in nanoGPT."""

from pathlib import Path

import numpy as np

from nanochat_pl.data.sources import MemorySource, read_documents
from nanochat_pl.data.specs import ShakespeareDataSpec
from nanochat_pl.data.windows import WindowRows, concatenate
from nanochat_pl.tokenizers.specs import ByteSpec, CharSpec

TOKENIZER = ByteSpec().build()


def test_documents_are_joined_with_a_bos_before_each() -> None:
    tokens = concatenate(MemorySource([str(i) for i in range(3000)]), TOKENIZER, num_threads=2)
    assert (tokens == TOKENIZER.bos_id).sum() == 3000
    assert (
        bytes(tokens[tokens != TOKENIZER.bos_id].astype(np.uint8).tolist()) == "".join(map(str, range(3000))).encode()
    )


def test_a_row_depends_on_its_number_and_the_seed_only() -> None:
    tokens = np.arange(1000, dtype=np.uint16)

    def rows(seed: int, numbers: list[int]) -> list[int]:
        source, row, starts = WindowRows(tokens, seed), np.empty(11, dtype=np.int64), []
        for n in numbers:
            source.fill(n, row)
            assert (np.diff(row) == 1).all()
            starts.append(int(row[0]))
        return starts

    numbers = list(range(4000))
    starts = rows(1, numbers)
    assert rows(1, numbers[::-1]) == starts[::-1]
    assert rows(2, numbers) != starts
    assert min(starts) == 0 and max(starts) == 1000 - 11
    counts = np.histogram(starts, bins=10, range=(0, 990))[0]
    assert counts.min() > 320 and counts.max() < 480


def test_shakespeare_is_split_as_nanogpt_splits_it(test_data: Path) -> None:
    path = test_data / "text" / "tinyshakespeare.txt"
    spec = ShakespeareDataSpec(path=str(path))
    train, val = spec.build_sources()
    text = path.read_text(encoding="utf-8")
    assert list(read_documents(train)) == [text[: int(len(text) * 0.9)]]
    assert list(read_documents(val)) == [text[int(len(text) * 0.9) :]]
    tokenizer = CharSpec().build([text])
    data = spec.build(tokenizer, sequence_len=64, rows_per_step=12, micro_batch_rows=12, seed=1, sources=(train, val))
    batch = next(iter(data.train_dataloader()))
    assert batch.inputs.shape == (12, 64)
    assert all(tokenizer.decode(row.tolist()) in text for row in batch.inputs)
