"""`data=tokens`: the folder, its tokenizer, and what does not fit."""

import itertools
from dataclasses import fields
from pathlib import Path

import numpy as np
import pytest
import yaml

from nanochat_pl.config.compose import CONF_FOLDER, compose
from nanochat_pl.config.specs import Specs
from nanochat_pl.core.errors import UserError
from nanochat_pl.data.packing import Packing
from nanochat_pl.data.sources import MemorySource, TinySource
from nanochat_pl.data.specs import ShakespeareDataSpec
from nanochat_pl.data.tokens.prepare import Preparation
from nanochat_pl.data.tokens.specs import TokenDataSpec
from nanochat_pl.tiny_world import document
from nanochat_pl.tokenizers.base import Tokenizer
from nanochat_pl.tokenizers.byte import ByteTokenizer
from nanochat_pl.tokenizers.specs import BPESpec, CharSpec

BYTES = ByteTokenizer()
BATCHES = {"sequence_len": 32, "rows_per_step": 4, "micro_batch_rows": 4, "seed": 1}


@pytest.fixture(scope="module")
def bpe() -> Tokenizer:
    return BPESpec(vocab_size=300).build(document(i) for i in range(100))


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory, bpe: Tokenizer) -> Path:
    folder = tmp_path_factory.mktemp("prepared")
    Preparation(TinySource("train", 300), TinySource("val", 30), bpe).run(folder)
    return folder


def bins(folder: Path, ids: list[int], dtype: type = np.uint16, tokenizer: Tokenizer | None = BYTES) -> Path:
    for name in ("train.bin", "val.bin"):
        np.array(ids, dtype=dtype).tofile(folder / name)
    if tokenizer is not None:
        tokenizer.save(folder / "tokenizer")
    return folder


def test_the_file_in_conf_names_every_field_once() -> None:
    values = yaml.safe_load((CONF_FOLDER / "data" / "tokens.yaml").read_text())
    assert values.pop("_target_") == f"{TokenDataSpec.__module__}.{TokenDataSpec.__name__}"
    assert set(values) == {field.name for field in fields(TokenDataSpec)}
    assert TokenDataSpec(**values | {"path": "x"}) == TokenDataSpec(path="x")


def test_the_tokenizer_is_the_one_that_made_the_tokens(prepared: Path, bpe: Tokenizer) -> None:
    specs = Specs.of(compose(["data=tokens", f"data.path={prepared}", "tokenizer=byte"]))
    assert specs.build_tokenizer().fingerprint == bpe.fingerprint
    assert specs.planned_vocab_size() == 300
    assert Specs.of(compose([])).data.own_tokenizer() is None
    data = specs.data.build(specs.build_tokenizer(), **BATCHES)
    batch = next(iter(data.train_dataloader()))
    assert batch.inputs.shape == (4, 32) and (batch.inputs[:, 0] == bpe.bos_id).all()


def test_another_tokenizer_is_refused_by_name(tmp_path: Path, prepared: Path, bpe: Tokenizer) -> None:
    BYTES.save(tmp_path)
    names = f"made by the tokenizer {bpe.fingerprint[:12]} of 300 tokens.*tokenizer {BYTES.fingerprint[:12]} of 265 tok"
    with pytest.raises(UserError, match=names):
        TokenDataSpec(path=str(prepared)).build(BYTES, **BATCHES)
    with pytest.raises(UserError, match=names):
        TokenDataSpec(path=str(prepared), tokenizer=str(tmp_path)).own_tokenizer()
    bpe.save(tmp_path / "same")
    same = TokenDataSpec(path=str(prepared), tokenizer=str(tmp_path / "same"))
    assert same.own_tokenizer().fingerprint == bpe.fingerprint


def test_folders_without_tokens(tmp_path: Path, prepared: Path) -> None:
    with pytest.raises(UserError, match=r"data\.path=DIR.*data prepare"):
        TokenDataSpec()
    for path in (tmp_path, tmp_path / "absent"):
        with pytest.raises(UserError, match=r"no prepared tokens in .*index\.json does not exist"):
            TokenDataSpec(path=str(path)).build_sources()
    index = prepared / "index.json"
    for content, message in (
        ("{", "is damaged"),
        ("[]", "is damaged"),
        ('{"format": "another"}', "did not write it"),
        ('{"format": "nanochat_pl.tokens", "version": 9}', "of version 9"),
    ):
        (tmp_path / "index.json").write_text(content)
        with pytest.raises(UserError, match=message):
            TokenDataSpec(path=str(tmp_path)).build_sources()
    (tmp_path / "index.json").write_text(index.read_text())
    with pytest.raises(UserError, match=r"train-00000\.tokens cannot be read"):
        TokenDataSpec(path=str(tmp_path)).build_sources()
    (tmp_path / "train-00000.tokens").write_bytes((prepared / "val-00000.tokens").read_bytes())
    with pytest.raises(UserError, match="another file than the one that"):
        TokenDataSpec(path=str(tmp_path)).build_sources()


@pytest.mark.parametrize("packing", ["best_fit", "windows"])
def test_damage_in_the_middle_is_met_when_it_is_read(tmp_path: Path, bpe: Tokenizer, packing: Packing) -> None:
    Preparation(MemorySource([document(i) for i in range(200)]), MemorySource(["text"]), bpe).run(tmp_path)
    path = tmp_path / "train-00000.tokens"
    raw = bytearray(path.read_bytes())
    raw[len(raw) // 2] ^= 1
    path.write_bytes(raw)
    data = TokenDataSpec(path=str(tmp_path), packing=packing).build(bpe, **BATCHES)
    with pytest.raises(UserError, match=r"train-00000\.tokens is damaged: the checksum of chunk \d+ is wrong"):
        list(itertools.islice(data.train_dataloader(), 1000))


def test_options_that_contradict_each_other() -> None:
    with pytest.raises(UserError, match=r"data\.shuffle=false goes with data\.packing=windows"):
        TokenDataSpec(path="x", shuffle=False)
    with pytest.raises(UserError, match="streams"):
        TokenDataSpec(path="x", streams=0)
    with pytest.raises(UserError, match="uint16"):
        TokenDataSpec(path="x", dtype="uint8")  # type: ignore[arg-type]


@pytest.mark.parametrize("dtype", ["uint16", "uint32"])
def test_headerless_files_give_windows_and_documents(tmp_path: Path, dtype: str) -> None:
    texts = [document(i) for i in range(200)]
    ids = [i for text in texts for i in (*BYTES.encode(text), BYTES.bos_id)]
    folder = bins(tmp_path, ids, np.dtype(dtype).type)
    windows = TokenDataSpec(path=str(folder), packing="windows", dtype=dtype)  # type: ignore[arg-type]
    data = windows.build(windows.own_tokenizer(), **BATCHES)
    whole = np.array(ids)
    for batch in itertools.islice(data.train_dataloader(), 20):
        for inputs, targets in zip(batch.inputs.numpy(), batch.targets.numpy()):
            row = [*inputs.tolist(), int(targets[-1])]
            assert any(whole[place : place + 33].tolist() == row for place in np.flatnonzero(whole == row[0]))
    assert data.fingerprint["training data"] == windows.build_sources()[0].fingerprint

    with pytest.raises(UserError, match=r"data\.separator=50256 for GPT-2's\).*data\.packing=windows"):
        TokenDataSpec(path=str(folder), dtype=dtype).build_sources()  # type: ignore[arg-type]
    packed = TokenDataSpec(path=str(folder), dtype=dtype, separator=BYTES.bos_id)  # type: ignore[arg-type]
    batch = next(iter(packed.build(BYTES, **BATCHES).train_dataloader()))
    first = BYTES.decode(batch.inputs[0, 1:].tolist()).split("<|bos|>")[0]
    assert (batch.inputs[:, 0] == BYTES.bos_id).all() and any(first in text for text in texts)


def test_headerless_files_want_their_tokenizer(tmp_path: Path) -> None:
    folder = bins(tmp_path, list(range(200)), tokenizer=None)
    spec = TokenDataSpec(path=str(folder), packing="windows")
    with pytest.raises(UserError, match=r"data\.tokenizer=FOLDER"):
        spec.own_tokenizer()
    CharSpec().build(["abc"]).save(tmp_path / "abc")
    with pytest.raises(UserError, match="token id 199, but the tokenizer has only 12 tokens"):
        TokenDataSpec(path=str(folder), packing="windows", tokenizer=str(tmp_path / "abc")).build_sources()
    BYTES.save(tmp_path / "bytes")
    fitting = TokenDataSpec(path=str(folder), packing="windows", tokenizer=str(tmp_path / "bytes"))
    with pytest.raises(UserError, match="made by the tokenizer"):
        fitting.build(CharSpec().build(["abc"]), **BATCHES)
    with pytest.raises(UserError, match=r"only 200 tokens.*sequence_len=200 needs 201"):
        fitting.build(BYTES, **BATCHES | {"sequence_len": 200}).check_length()
    assert fitting.build(BYTES, **BATCHES | {"sequence_len": 199}) is not None


def test_meta_pkl_is_never_loaded(tmp_path: Path) -> None:
    folder = bins(tmp_path, list(range(200)))
    (folder / "meta.pkl").write_bytes(b"cos\nsystem\n(S'touch " + str(tmp_path / "loaded").encode() + b"'\ntR.")
    spec = TokenDataSpec(path=str(folder), packing="windows")
    next(iter(spec.build(spec.own_tokenizer(), **BATCHES).train_dataloader()))
    assert not (tmp_path / "loaded").exists()


def test_nanogpts_characters_are_the_rows_of_the_text(tmp_path: Path, test_data: Path) -> None:
    # What nanoGPT's data/shakespeare_char/prepare.py does.
    path = test_data / "text" / "tinyshakespeare.txt"
    text = path.read_text(encoding="utf-8")
    places = {character: i for i, character in enumerate(sorted(set(text)))}
    for name, part in (("train.bin", text[: int(len(text) * 0.9)]), ("val.bin", text[int(len(text) * 0.9) :])):
        np.array([places[character] for character in part], dtype=np.uint16).tofile(tmp_path / name)
    tokenizer = CharSpec().build([text])
    tokenizer.save(tmp_path / "tokenizer")
    spec = TokenDataSpec(path=str(tmp_path), packing="windows", val_tokens=2048)
    data = spec.build(spec.own_tokenizer(), **BATCHES)
    for batch in itertools.islice(data.train_dataloader(), 5):
        assert all(tokenizer.decode(row.tolist()) in text for row in batch.inputs)
    own = ShakespeareDataSpec(path=str(path), val_tokens=2048).build(tokenizer, **BATCHES)
    last, last_of_own = list(data.val_dataloader())[-1], list(own.val_dataloader())[-1]
    # The text has a BOS before its only document, the file has none.
    assert last.inputs[-1, :-1].tolist() == last_of_own.inputs[-1, 1:].tolist()
