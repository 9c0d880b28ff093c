"""Exported folders: transformers computes what we compute, in every way that it may ask for it."""

import dataclasses
import json
import string
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from nanochat_pl.checkpoint.hf_export import CHAT_TEMPLATE, RECORD, export_to_hf
from nanochat_pl.checkpoint.hf_formats import MODELING_FILE
from nanochat_pl.checkpoint.model_folder import LoadedModel
from nanochat_pl.core.errors import UserError
from nanochat_pl.core.types import IGNORE_INDEX
from nanochat_pl.inference.conversation import stop_ids
from nanochat_pl.inference.generate import generate
from nanochat_pl.inference.sampling import Sampling
from nanochat_pl.models.config import NanoChatConfig
from nanochat_pl.tokenizers.byte import ByteTokenizer
from nanochat_pl.tokenizers.char import CharTokenizer
from tests.models.test_nanochat import SWITCHES, TINY, randomized

transformers = pytest.importorskip("transformers")

CHARACTERS = CharTokenizer("".join(sorted(string.ascii_letters + "12345678 ")))
PROMPTS = [[61, 5, 9, 33], [61, 2, 3, 40, 41, 42, 43, 44, 45, 1, 60, 7]]
FIRST = dataclasses.replace(TINY, **SWITCHES["the first nanochat"])
OF_EVERY_SWITCH = pytest.mark.parametrize("switch", SWITCHES)
OF_BOTH_FORMATS = pytest.mark.parametrize("config", [TINY, FIRST], ids=["own modeling file", "transformers' own"])


@pytest.fixture(scope="module", autouse=True)
def copies_of_modeling_files(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """transformers copies modeling files before it imports them."""
    from transformers import dynamic_module_utils

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(dynamic_module_utils, "HF_MODULES_CACHE", str(tmp_path_factory.mktemp("modules")))
        patch.setattr(sys, "path", [*sys.path])  # to which it adds that folder
        yield


def loaded_model(config: NanoChatConfig, stage: str = "base") -> LoadedModel:
    assert config.vocab_size == CHARACTERS.vocab_size
    return LoadedModel(randomized(config).eval(), CHARACTERS, {"step": 7.0, "tokens": 1e6, "val_bpb": 1.25}, stage)


def exported(config: NanoChatConfig, folder: Path) -> tuple[Any, Any]:
    """Our model, and the same as transformers loads it."""
    loaded = loaded_model(config)
    export_to_hf(loaded, "runs/test", folder)
    theirs = transformers.AutoModelForCausalLM.from_pretrained(folder, trust_remote_code=True)
    assert not theirs.training
    return loaded.model, theirs


def texts(rows: int, tokens: int) -> torch.Tensor:
    return torch.randint(TINY.vocab_size, (rows, tokens), generator=torch.Generator().manual_seed(1))


def longest(config: NanoChatConfig) -> int:
    """Texts may go on beyond the trained context, but not in transformers' own architecture."""
    return config.sequence_len if is_first(config) else 3 * config.sequence_len


def is_first(config: NanoChatConfig) -> bool:
    return not config.smear and not config.scalars


@OF_EVERY_SWITCH
@torch.no_grad()
def test_logits_are_equal(switch: str, tmp_path: Path) -> None:
    config = dataclasses.replace(TINY, **SWITCHES[switch])
    ours, theirs = exported(config, tmp_path)
    expected = "NanoChatForCausalLM" if switch == "the first nanochat" else "NanoChatPLForCausalLM"
    assert type(theirs).__name__ == expected
    assert (tmp_path / MODELING_FILE).exists() == (switch != "the first nanochat")
    ids = texts(2, longest(config))
    logits = ours(ids)
    assert logits.std() > 0.5
    torch.testing.assert_close(theirs(ids).logits, logits, rtol=0, atol=1e-4)


@OF_EVERY_SWITCH
@torch.no_grad()
def test_a_text_in_pieces_gives_the_same_logits(switch: str, tmp_path: Path) -> None:
    config = dataclasses.replace(TINY, **SWITCHES[switch])
    ours, theirs = exported(config, tmp_path)
    ids = texts(2, longest(config))
    cache, pieces, start = None, [], 0
    for length in (3, 1, 1, 7, 1, 4, ids.size(1)):
        output = theirs(ids[:, start : start + length], past_key_values=cache, use_cache=True)
        cache, start = output.past_key_values, start + length
        pieces.append(output.logits)
    torch.testing.assert_close(torch.cat(pieces, dim=1), ours(ids), rtol=0, atol=1e-4)
    if "S" in config.window_pattern and config.n_layer > 1:
        assert cache.layers[0].keys.size(2) == config.windows[0]  # no more than the window is kept


@OF_EVERY_SWITCH
def test_greedy_answers_are_equal(switch: str, tmp_path: Path) -> None:
    config = dataclasses.replace(TINY, **SWITCHES[switch])
    ours, theirs = exported(config, tmp_path)
    new = longest(config) - max(map(len, PROMPTS))
    expected = generate(ours, PROMPTS, Sampling(max_new_tokens=new, temperature=0))
    theirs.generation_config.eos_token_id = None
    for prompt, continuation in zip(PROMPTS, expected, strict=True):
        answer = theirs.generate(torch.tensor([prompt]), max_new_tokens=new, do_sample=False)
        assert answer[0].tolist() == prompt + continuation
    width = max(map(len, PROMPTS))
    padded = torch.tensor([[0] * (width - len(prompt)) + prompt for prompt in PROMPTS])
    mask = torch.tensor([[0] * (width - len(prompt)) + [1] * len(prompt) for prompt in PROMPTS])
    answers = theirs.generate(padded, attention_mask=mask, max_new_tokens=new, do_sample=False)
    assert answers[:, width:].tolist() == expected


@OF_BOTH_FORMATS
def test_an_answer_ends_with_a_stop_token(config: NanoChatConfig, tmp_path: Path) -> None:
    _, theirs = exported(config, tmp_path)
    prompt = torch.tensor(PROMPTS[:1])
    likes_bos = torch.nn.functional.one_hot(torch.tensor([[CHARACTERS.bos_id]]), config.vocab_size).float()
    theirs.get_output_embeddings().register_forward_hook(lambda *_: likes_bos)
    answer = theirs.generate(prompt, max_new_tokens=5, do_sample=False)
    assert answer[0].tolist() == [*PROMPTS[0], CHARACTERS.bos_id]


@pytest.mark.parametrize("stage", ["base", "sft"])
def test_what_ends_an_answer_is_what_ends_it_here(stage: str, tmp_path: Path) -> None:
    loaded = loaded_model(TINY, stage)
    export_to_hf(loaded, "runs/test", tmp_path)
    settings = transformers.GenerationConfig.from_pretrained(tmp_path)
    assert settings.eos_token_id == list(stop_ids(CHARACTERS, loaded.is_chat))
    tokenizer = transformers.AutoTokenizer.from_pretrained(tmp_path, trust_remote_code=True)
    assert (tokenizer.eos_token_id, tokenizer.bos_token_id) == (settings.eos_token_id[0], CHARACTERS.bos_id)
    assert settings.pad_token_id == tokenizer.pad_token_id


@torch.no_grad()
def test_padding_on_either_side_changes_nothing(tmp_path: Path) -> None:
    ours, theirs = exported(TINY, tmp_path)
    ids = texts(1, 30)
    expected = ours(ids)
    for left, right in ((9, 0), (0, 9), (4, 2)):
        padded = torch.cat((texts(1, left), ids, texts(1, right)), dim=1)
        mask = torch.cat((torch.zeros(1, left), torch.ones(1, 30), torch.zeros(1, right)), dim=1).long()
        logits = theirs(padded, attention_mask=mask).logits
        assert logits.isfinite().all()
        torch.testing.assert_close(logits[:, left : left + 30], expected, rtol=0, atol=1e-4)


@torch.no_grad()
def test_beams_and_several_samples_carry_all_of_their_state(tmp_path: Path) -> None:
    _, theirs = exported(TINY, tmp_path)
    prompt = torch.tensor(PROMPTS[1:])
    theirs.generation_config.eos_token_id = None
    beams = {"max_new_tokens": 20, "num_beams": 4}
    answers = theirs.generate(prompt, **beams)
    assert torch.equal(answers, theirs.generate(prompt, **beams, use_cache=False))
    torch.manual_seed(0)
    samples = theirs.generate(prompt, max_new_tokens=20, do_sample=True, num_return_sequences=3)
    assert len({tuple(row.tolist()) for row in samples}) == 3
    looked_up = theirs.generate(prompt, max_new_tokens=20, do_sample=False, prompt_lookup_num_tokens=3)
    assert torch.equal(looked_up, theirs.generate(prompt, max_new_tokens=20, do_sample=False))


def test_the_loss_and_its_gradients_are_ours(tmp_path: Path) -> None:
    ours, theirs = exported(TINY, tmp_path)
    ids = texts(2, TINY.sequence_len)
    labels = ids.clone()
    labels[0, :7] = -100
    targets = torch.where(labels == -100, IGNORE_INDEX, labels)[:, 1:]
    expected = ours(ids[:, :-1], targets.contiguous()) / (targets != IGNORE_INDEX).sum()
    loss = theirs.train()(ids, labels=labels).loss
    torch.testing.assert_close(loss, expected)
    loss.backward()
    expected.backward()
    for name, parameter in theirs.named_parameters():
        gradient = ours.get_parameter(name).grad
        torch.testing.assert_close(parameter.grad, gradient[: len(parameter)], rtol=1e-3, atol=1e-5, msg=name)


@OF_BOTH_FORMATS
@torch.no_grad()
def test_low_precision_models_are_written_in_their_precision(config: NanoChatConfig, tmp_path: Path) -> None:
    config = dataclasses.replace(config, compute_dtype="bfloat16")
    ours, theirs = exported(config, tmp_path)
    assert theirs.dtype == torch.bfloat16 and theirs.config.rms_norm_eps == 2**-7
    ids = texts(2, config.sequence_len)
    difference = theirs(ids).logits.float() - ours(ids)
    assert difference.abs().mean() < 0.02 * ours(ids).std()


def test_what_the_modeling_file_cannot_do_it_refuses(tmp_path: Path) -> None:
    _, theirs = exported(TINY, tmp_path)
    ids = texts(1, 6)
    with pytest.raises(ValueError, match="dynamic cache"):
        theirs.generate(ids, max_new_tokens=3, cache_implementation="static")
    for shape in ((1, 5), (1, 7), (1, 1, 6, 6)):
        with pytest.raises(ValueError, match=r"shape \(batch, 6\)"):
            theirs(ids, attention_mask=torch.ones(shape, dtype=torch.long))
    with pytest.raises(ValueError, match="needs input_ids"):
        theirs.generate(inputs_embeds=torch.zeros(1, 3, TINY.n_embd), max_new_tokens=3)


@OF_BOTH_FORMATS
def test_what_transformers_saves_again_it_loads_again(config: NanoChatConfig, tmp_path: Path) -> None:
    _, theirs = exported(config, tmp_path / "first")
    theirs.save_pretrained(tmp_path / "second")
    again = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "second", trust_remote_code=True)
    ids = texts(1, 12)
    with torch.no_grad():
        assert torch.equal(again(ids).logits, theirs(ids).logits)


@OF_BOTH_FORMATS
@pytest.mark.parametrize("stage", ["base", "sft"])
def test_the_card_s_example_runs(
    config: NanoChatConfig, stage: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    model = randomized(dataclasses.replace(config, vocab_size=265))
    export_to_hf(LoadedModel(model, ByteTokenizer(), {}, stage), "runs/test", tmp_path)
    example = (tmp_path / "README.md").read_text().split("```python\n")[1].split("```")[0]
    monkeypatch.chdir(tmp_path)
    names: dict[str, Any] = {}
    exec(example, names)
    assert "model" in names and capsys.readouterr().out


def test_an_export_replaces_an_earlier_one_and_nothing_else(tmp_path: Path) -> None:
    out = tmp_path / "new" / "folder"
    export_to_hf(loaded_model(TINY, "sft"), "runs/first", out)
    names = {path.name for path in out.iterdir()}
    assert {MODELING_FILE, CHAT_TEMPLATE, RECORD, "model.safetensors", "generation_config.json"} < names
    card = (out / "README.md").read_text()
    for words in ("runs/first", "supervised finetuning", "1,000,000", "1.2500", "trust_remote_code=True", "U+FDD0"):
        assert words in card
    (out / "notes.txt").write_text("mine")
    export_to_hf(loaded_model(FIRST), "runs/second", out)
    left = {path.name for path in out.iterdir()}
    assert left == names - {MODELING_FILE, CHAT_TEMPLATE} | {"notes.txt"}
    assert json.loads((out / RECORD).read_text())["source"] == "runs/second"
    assert "trust_remote_code" not in (out / "README.md").read_text()


def test_a_folder_of_other_things_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "thesis.txt").write_text("mine")
    with pytest.raises(UserError, match=r"not empty.*--out"):
        export_to_hf(loaded_model(TINY), "runs/test", tmp_path)
    for out in (tmp_path / "thesis.txt", tmp_path / "thesis.txt" / "deeper"):
        with pytest.raises(UserError, match="a file is in its place"):
            export_to_hf(loaded_model(TINY), "runs/test", out)
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.txt"]


def test_nothing_is_written_where_the_tokenizer_cannot_be(tmp_path: Path) -> None:
    class Odd(ByteTokenizer):
        kind = "odd"

        def encode(self, text: str) -> list[int]:
            return [byte ^ 1 for byte in super().encode(text)]

    model = randomized(dataclasses.replace(TINY, vocab_size=265))
    with pytest.raises(UserError, match="other ids for the same text"):
        export_to_hf(LoadedModel(model, Odd(), {}, "base"), "runs/test", tmp_path / "out")
    assert not (tmp_path / "out").exists()
