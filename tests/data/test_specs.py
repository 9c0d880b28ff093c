"""The data sets that can be named, from their files in conf to batches."""

from pathlib import Path

import pytest

from nanochat_pl.core.errors import MachineError, UserError
from nanochat_pl.core.paths import data_root
from nanochat_pl.data.download import SHAKESPEARE_SHA256, tiny_shakespeare
from nanochat_pl.data.sources import read_documents
from nanochat_pl.data.specs import ShakespeareDataSpec, TextDataSpec, TinyDataSpec
from nanochat_pl.tokenizers.specs import BPESpec


def test_tiny_trains_offline_and_holds_out_other_documents() -> None:
    spec = TinyDataSpec(num_documents=500, val_documents=50, val_tokens=1000)
    sources = spec.build_sources()
    train, val = (list(read_documents(source)) for source in sources)
    assert len(train) == 500 and len(val) == 50 and not set(train) & set(val)
    tokenizer = BPESpec(vocab_size=300).build(train)
    data = spec.build(tokenizer, sequence_len=32, rows_per_step=8, micro_batch_rows=4, seed=1, sources=sources)
    batch = next(iter(data.train_dataloader()))
    assert batch.inputs.shape == (4, 32) and (batch.inputs[:, 0] == tokenizer.bos_id).all()
    first = tokenizer.decode(batch.inputs[0, 1:].tolist()).split("<|bos|>")[0]
    assert any(first in document for document in train)
    assert sum(len(batch.inputs) for batch in data.val_dataloader()) == 1000 // 32


def test_sources_with_other_documents_have_other_fingerprints() -> None:
    small, large = TinyDataSpec(num_documents=100), TinyDataSpec(num_documents=200)
    prints = {source.fingerprint for spec in (small, large) for source in spec.build_sources()}
    assert len(prints) == 3
    assert small.build_sources()[0].fingerprint in prints


def test_values_out_of_range_are_refused() -> None:
    for values in ({"streams": 0}, {"buffer_documents": 0}, {"val_tokens": 0}, {"num_documents": 0}):
        with pytest.raises(UserError, match=next(iter(values))):
            TinyDataSpec(**values)
    with pytest.raises(UserError, match="val_fraction"):
        TextDataSpec(files="x.txt", val_fraction=1.0)
    with pytest.raises(UserError, match="windows"):
        TinyDataSpec(packing="window")  # type: ignore[arg-type]


def test_shakespeare_offline_says_how_to_get_it(tmp_path: Path) -> None:
    with pytest.raises(MachineError, match=r"Could not download.*data\.path=FILE"):
        tiny_shakespeare((tmp_path / "absent").as_uri())
    (tmp_path / "page.html").write_text("<html>")
    with pytest.raises(MachineError, match="another file"):
        tiny_shakespeare((tmp_path / "page.html").as_uri())
    assert not (data_root() / "tinyshakespeare.txt").exists()


def test_shakespeare_is_downloaded_once(test_data: Path) -> None:
    path = tiny_shakespeare((test_data / "text" / "tinyshakespeare.txt").as_uri())
    assert path.stat().st_size == 1_115_394 and len(SHAKESPEARE_SHA256) == 64
    assert tiny_shakespeare("nowhere://") == path
    spec = ShakespeareDataSpec(packing="best_fit")
    train, val = spec.build_sources()
    assert next(read_documents(train)).startswith("First Citizen:\nBefore we proceed")
    assert sum(1 for _ in read_documents(train)) > 5000 and sum(1 for _ in read_documents(val)) > 500
