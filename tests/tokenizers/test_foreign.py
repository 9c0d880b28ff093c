"""Tokenizers of others: the ids are theirs, the special tokens ours, and once saved they need nobody."""

import json
import shutil
from pathlib import Path

import pytest
import tiktoken
from tiktoken.load import data_gym_to_mergeable_bpe_ranks
from tokenizers import AddedToken, Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

from nanochat_pl.checkpoint.hf_tokenizer import build_hf_tokenizer
from nanochat_pl.core.errors import MachineError, UserError
from nanochat_pl.tiny_world import document
from nanochat_pl.tokenizers.base import SPECIAL_TOKENS
from nanochat_pl.tokenizers.cache import cached_tokenizer, find_tokenizer
from nanochat_pl.tokenizers.chat import render_conversation
from nanochat_pl.tokenizers.hf import HFTokenizer
from nanochat_pl.tokenizers.hf_files import find_hf_tokenizer
from nanochat_pl.tokenizers.load import load_tokenizer
from nanochat_pl.tokenizers.specs import BPESpec, HFSpec, TiktokenSpec
from tests.hub_client import hub_client
from tests.hub_server import HubServer

DOCUMENTS = [document(i) for i in range(200)]
TEXTS = [*DOCUMENTS[:20], "Früh am Morgen, 1234 €", "  two  spaces\n\n\tand a tab ", "😀 <s> <|endoftext|> <|bos|>"]
KINDS = ("gpt2", "llama", "unigram", "bert")


def gpt2_like() -> Tokenizer:
    """Bytes, and the one special token behind all others."""
    library = Tokenizer(models.BPE())
    library.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    library.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    library.train_from_iterator(DOCUMENTS, trainers.BpeTrainer(vocab_size=500, initial_alphabet=alphabet))
    library.add_special_tokens(["<|endoftext|>"])
    return library


def llama_like() -> Tokenizer:
    """SentencePiece's: a space in front of each text, single bytes for what is not in the vocabulary."""
    library = Tokenizer(models.BPE(unk_token="<unk>", byte_fallback=True, fuse_unk=True))
    library.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    library.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    special = ["<unk>", "<s>", "</s>", *(f"<0x{byte:02X}>" for byte in range(256))]
    library.train_from_iterator(DOCUMENTS, trainers.BpeTrainer(vocab_size=700, special_tokens=special))
    definition = json.loads(library.to_str())
    definition["added_tokens"] = definition["added_tokens"][:3]  # single bytes are ordinary tokens
    return Tokenizer.from_str(json.dumps(definition))


def unigram_like() -> Tokenizer:
    library = Tokenizer(models.Unigram())
    library.pre_tokenizer = pre_tokenizers.Metaspace()
    library.decoder = decoders.Metaspace()
    library.train_from_iterator(
        DOCUMENTS, trainers.UnigramTrainer(vocab_size=400, special_tokens=["<pad>", "</s>", "<unk>"], unk_token="<unk>")
    )
    return library


def bert_like() -> Tokenizer:
    """Lower case, and words that begin without a space."""
    library = Tokenizer(models.WordPiece(unk_token="[UNK]"))
    library.normalizer = normalizers.BertNormalizer()
    library.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    library.decoder = decoders.WordPiece()
    special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]"]
    library.train_from_iterator(DOCUMENTS, trainers.WordPieceTrainer(vocab_size=500, special_tokens=special))
    return library


MADE = dict(zip(KINDS, (gpt2_like(), llama_like(), unigram_like(), bert_like())))
OWN = {
    "gpt2": {"bos_token": "<|endoftext|>", "eos_token": "<|endoftext|>"},
    "llama": {"bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>"},
    "unigram": {"eos_token": "</s>", "pad_token": "<pad>"},
    "bert": {"unk_token": "[UNK]"},
}


@pytest.fixture(params=KINDS)
def folder(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    return published(request.param, tmp_path / "org" / request.param)


def published(kind: str, folder: Path) -> Path:
    """A tokenizer as `transformers` saves it."""
    PreTrainedTokenizerFast(tokenizer_object=MADE[kind], **OWN[kind]).save_pretrained(folder)
    return folder


def test_the_ids_are_those_of_transformers(folder: Path) -> None:
    theirs = PreTrainedTokenizerFast.from_pretrained(folder)
    ours = HFSpec(str(folder)).build()
    expected = [theirs.encode(text, add_special_tokens=False, split_special_tokens=True) for text in TEXTS]
    assert [ours.encode(text) for text in TEXTS] == expected
    assert [ids.tolist() for ids in ours.encode_batch(TEXTS)] == expected
    assert ours.vocab_size - len(theirs) == len(SPECIAL_TOKENS) - (folder.name != "bert")


def test_text_comes_back_as_far_as_the_vocabulary_allows(folder: Path) -> None:
    ours = find_hf_tokenizer(str(folder))
    for text in DOCUMENTS[:50]:
        ids = ours.encode(text)
        if folder.name == "bert":
            assert "".join(ours.decode(ids).split()) == "".join(text.lower().split())
        else:
            kept = text if folder.name == "gpt2" else f" {text}"
            assert ours.decode(ids) == kept
            assert ours.token_bytes()[ids].sum() == len(kept.encode())
        half = len(ids) // 2
        assert ours.decode(ids[:half]) + ours.decode(ids[half:]) == ours.decode(ids)


def test_what_is_saved_needs_nobody(folder: Path, tmp_path: Path) -> None:
    ours = find_hf_tokenizer(str(folder))
    ours.save(tmp_path / "ours")
    shutil.rmtree(folder)
    loaded = load_tokenizer(tmp_path / "ours")
    assert loaded.fingerprint == ours.fingerprint
    assert [loaded.encode(text) for text in TEXTS] == [ours.encode(text) for text in TEXTS]
    assert loaded.special_tokens == ours.special_tokens and loaded.end_ids == ours.end_ids


def test_special_tokens_are_theirs_where_they_have_them(tmp_path: Path) -> None:
    gpt2, llama, unigram, bert = (find_hf_tokenizer(str(published(kind, tmp_path / kind))) for kind in KINDS)
    assert (gpt2.bos_id, gpt2.end_ids) == (500, (500,))
    assert list(gpt2.special_tokens.values()) == list(range(500, 509))
    assert (llama.bos_id, llama.end_ids) == (1, (1, 2))
    assert list(llama.special_tokens.values()) == [1, *range(700, 708)]
    assert unigram.bos_id == 1  # its </s>: it has no other
    assert bert.bos_id == bert.n_ordinary == 500
    assert not llama.is_text(0) and llama.is_text(3) and not llama.is_text(700)
    assert llama.token_bytes()[[0, 1, 2, 3, 700]].tolist() == [0, 0, 0, 1, 0]
    chat = render_conversation(llama, [{"role": "user", "content": "<s>"}, {"role": "assistant", "content": "yes"}])
    assert chat.ids.count(1) == 1 and llama.decode(chat.ids).startswith("<s><|user_start|> <s><|user_end|>")


def test_it_is_exported_with_the_same_ids(folder: Path) -> None:
    ours = find_hf_tokenizer(str(folder))
    if folder.name == "unigram":
        with pytest.raises(UserError, match="cannot be exported"):
            build_hf_tokenizer(ours, is_chat=True)
        return
    built = build_hf_tokenizer(ours, is_chat=True)
    for text in TEXTS[:-1]:
        assert built.encode(text).ids == [ours.bos_id, *ours.encode(text)]
    asked = [{"role": "user", "content": "Hello, Tom."}, {"role": "assistant", "content": "Hello."}]
    written = "<|bos|><|user_start|>Hello, Tom.<|user_end|><|assistant_start|>Hello.<|assistant_end|>"
    assert built.encode(written, add_special_tokens=False).ids == render_conversation(ours, asked).ids


def test_our_own_names_are_taken_where_a_vocabulary_has_them(tmp_path: Path) -> None:
    library = gpt2_like()
    library.add_special_tokens([AddedToken(name, special=True) for name in reversed(SPECIAL_TOKENS)])
    library.save(str(tmp_path / "nanochat.json"))
    ours = HFSpec(str(tmp_path / "nanochat.json")).build()
    assert list(ours.special_tokens.values()) == list(range(509, 500, -1))
    assert ours.vocab_size == 510
    assert HFSpec(str(tmp_path / "nanochat.json"), bos="<|endoftext|>").build().bos_id == 500


def test_gpt2_by_either_library_is_the_same(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    MADE["gpt2"].model.save(str(tmp_path))
    ranks = data_gym_to_mergeable_bpe_ranks(str(tmp_path / "merges.txt"), str(tmp_path / "vocab.json"))
    pattern = r"""'(?:[sdmt]|ll|ve|re)| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"""
    fetched = tiktoken.Encoding("gpt2", pat_str=pattern, mergeable_ranks=ranks, special_tokens={"<|endoftext|>": 500})
    monkeypatch.setitem(tiktoken.registry.ENCODINGS, "gpt2", fetched)
    ours = cached_tokenizer(TiktokenSpec("gpt2"), "", list)
    theirs = HFTokenizer(MADE["gpt2"].to_str(), "<|endoftext|>", "<|endoftext|>")
    assert [ours.encode(text) for text in TEXTS] == [theirs.encode(text) for text in TEXTS]
    assert ours.special_tokens == theirs.special_tokens and ours.vocab_size == theirs.vocab_size
    assert (ours.token_bytes() == theirs.token_bytes()).all()
    monkeypatch.delitem(tiktoken.registry.ENCODINGS, "gpt2")
    forbid_network(monkeypatch)
    again = find_tokenizer(TiktokenSpec("gpt2"), "")
    assert again is not None and again.fingerprint == ours.fingerprint


def test_the_sizes_that_plans_count_on() -> None:
    assert TiktokenSpec("gpt2").vocab_size == 50265
    assert TiktokenSpec("cl100k_base").vocab_size == 100265
    assert TiktokenSpec("o200k_base").vocab_size == 200007


def test_from_the_hub_then_from_its_cache(tmp_path: Path) -> None:
    published("llama", tmp_path / "hub" / "org" / "llama")
    published("gpt2", tmp_path / "hub" / "org" / "secret")
    with HubServer(tmp_path / "hub", gated={"org/secret"}) as hub, hub_client(hub, tmp_path):
        fetched = HFSpec("org/llama").build()
        with pytest.raises(UserError, match="accept them on its page"):
            HFSpec("org/secret").build()
        with pytest.raises(UserError, match="no repository of that name"):
            HFSpec("org/lama").build()
        hub.down()
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)  # or it tries for half a minute
            assert HFSpec("org/llama").build().fingerprint == fetched.fingerprint
            with pytest.raises(MachineError, match="name a folder that holds"):
                HFSpec("org/other").build()
    assert fetched.fingerprint == HFSpec(str(tmp_path / "hub" / "org" / "llama")).build().fingerprint


def test_older_files_are_converted_by_transformers(tmp_path: Path) -> None:
    MADE["gpt2"].model.save(str(tmp_path))
    (tmp_path / "tokenizer_config.json").write_text('{"tokenizer_class": "GPT2Tokenizer"}')
    ours = HFSpec(str(tmp_path)).build()
    expected = MADE["gpt2"].encode_batch(DOCUMENTS[:20])
    assert [ours.encode(text) for text in DOCUMENTS[:20]] == [one.ids for one in expected]


def test_other_files_of_the_same_name_are_another_tokenizer(tmp_path: Path) -> None:
    spec = HFSpec(str(published("gpt2", tmp_path / "it")))
    first = cached_tokenizer(spec, "", list)
    published("unigram", tmp_path / "it")
    assert find_tokenizer(spec, "") is None
    assert cached_tokenizer(spec, "", list).fingerprint != first.fingerprint


def test_mistakes_are_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(UserError, match=r"'cl100k'; did you mean 'cl100k_base'\? Encodings: gpt2"):
        TiktokenSpec("cl100k")
    forbid_network(monkeypatch)
    with pytest.raises(MachineError, match=r"could not fetch the encoding o200k_base.*TIKTOKEN_CACHE_DIR"):
        TiktokenSpec("o200k_base").build()
    for absent in (tmp_path / "absent", tmp_path / "absent.json"):
        with pytest.raises(UserError, match=r"There is no tokenizer .*absent"):
            HFSpec(str(absent)).build()
    (tmp_path / "tokenizer.json").write_text("[1]")
    with pytest.raises(UserError, match=r"tokenizer\.json cannot be used as a tokenizer"):
        HFSpec(str(tmp_path)).build()
    ours = BPESpec(300).build(DOCUMENTS)  # in a folder of the name that is asked for
    ours.save(tmp_path)
    assert HFSpec(str(tmp_path)).build().fingerprint == ours.fingerprint
    with pytest.raises(UserError, match=r"leave tokenizer\.bos=x out"):
        HFSpec(str(tmp_path), bos="x").build()
    published("gpt2", tmp_path / "it")
    with pytest.raises(UserError, match="has no token '<s>'"):
        HFSpec(str(tmp_path / "it"), bos="<s>").build()
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match="no tokenizer in"):
        HFSpec(str(tmp_path / "empty")).build()


def forbid_network(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("http_proxy", "https_proxy", "HTTP_PROXY", "HTTPS_PROXY"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")  # nobody answers there
