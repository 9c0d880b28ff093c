"""Models of other programs: they compute here what they computed there, go on, and are refused where they cannot."""

import dataclasses
import json
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from typer.testing import CliRunner

from nanochat_pl.checkpoint.foreign import ForeignModel
from nanochat_pl.checkpoint.hf_export import export_to_hf
from nanochat_pl.checkpoint.hf_formats import FIRST_NANOCHAT_OPTIONS
from nanochat_pl.checkpoint.hf_import import hf_folder
from nanochat_pl.checkpoint.model_folder import LoadedModel, load_model_folder, load_weights
from nanochat_pl.checkpoint.named_model import find_named_model
from nanochat_pl.checkpoint.parent import Parent, find_parent
from nanochat_pl.checkpoint.peers import read_nanochat
from nanochat_pl.cli import checkpoints
from nanochat_pl.config.compose import compose
from nanochat_pl.core.errors import UserError
from nanochat_pl.core.paths import known_error
from nanochat_pl.models.contract import build_model
from nanochat_pl.models.gpt2 import GPT2Config
from nanochat_pl.models.nanochat import NanoChatConfig
from nanochat_pl.tokenizers.byte import ByteTokenizer
from tests.hub_client import hub_client
from tests.hub_server import HubServer
from tests.models.test_nanochat import randomized
from tests.processes import SMALL, train
from tests.stages.test_architectures import chats_file
from tests.tokenizers.test_foreign import published

transformers = pytest.importorskip("transformers")

EVALUATIONS = ("eval_gpt2", "eval_gpt2_medium", "eval_gpt2_large", "eval_gpt2_xl")
NANOCHAT_TINY = NanoChatConfig(vocab_size=265, sequence_len=16, n_layer=3, n_head=2, n_kv_head=1, n_embd=32)
FIRST_NANOCHAT = dataclasses.replace(NANOCHAT_TINY, window_pattern="L", **FIRST_NANOCHAT_OPTIONS)


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NANOCHAT_PL_CACHE", str(tmp_path / "cache"))


def gpt2(**options: Any) -> Any:
    sizes = {"vocab_size": 501, "n_positions": 48, "n_embd": 32, "n_layer": 2, "n_head": 2}
    return made(transformers.GPT2LMHeadModel, transformers.GPT2Config(**sizes | options))


def llama(**options: Any) -> Any:
    scaling = {"rope_type": "llama3", "rope_theta": 500.0, "factor": 4.0, "low_freq_factor": 1.0}
    scaling |= {"high_freq_factor": 4.0, "original_max_position_embeddings": 16}
    sizes = {"vocab_size": 700, "hidden_size": 32, "intermediate_size": 40, "num_hidden_layers": 2}
    sizes |= {"num_attention_heads": 4, "num_key_value_heads": 2, "max_position_embeddings": 48}
    return made(
        transformers.LlamaForCausalLM, transformers.LlamaConfig(**sizes | {"rope_parameters": scaling} | options)
    )


def nanochat(**options: Any) -> Any:
    """transformers' own, which is the first nanochat."""
    sizes = {"vocab_size": 501, "hidden_size": 32, "intermediate_size": 128, "num_hidden_layers": 3}
    sizes |= {"num_attention_heads": 4, "num_key_value_heads": 2, "max_position_embeddings": 48}
    rope = {"rope_type": "default", "rope_theta": 700.0}
    config = transformers.NanoChatConfig(**sizes | {"rope_parameters": rope, "final_logit_softcapping": 5.0} | options)
    return made(transformers.NanoChatForCausalLM, config)


def made(kind: Any, config: Any) -> Any:
    """With random weights that are large enough for every part to count."""
    torch.manual_seed(0)
    model = kind(config).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.2 * torch.randn_like(parameter))
    return model


def saved(model: Any, folder: Path, **options: Any) -> Path:
    """As it is published, its tokenizer beside it."""
    model.save_pretrained(folder, **options)
    return published("llama" if model.config.model_type == "llama" else "gpt2", folder)


def other_gpt2() -> Any:
    """With options that our GPT-2 lacks: transformers' own code computes it."""
    return gpt2(activation_function="relu", scale_attn_by_inverse_layer_idx=True)


def qwen3() -> Any:
    """An architecture that is none of ours, with one table for both ends."""
    sizes = {"vocab_size": 501, "hidden_size": 32, "intermediate_size": 40, "num_hidden_layers": 3, "head_dim": 12}
    sizes |= {"num_attention_heads": 4, "num_key_value_heads": 2, "max_position_embeddings": 48}
    return made(transformers.Qwen3ForCausalLM, transformers.Qwen3Config(**sizes, tie_word_embeddings=True))


def biased() -> Any:
    """Its head has a bias, and the table more rows than the tokenizer."""
    sizes = {"vocab_size": 517, "hidden_size": 32, "intermediate_size": 40, "num_hidden_layers": 3}
    sizes |= {"num_attention_heads": 4, "max_position_embeddings": 48}
    return made(transformers.PhiForCausalLM, transformers.PhiConfig(**sizes))


def mixture() -> Any:
    """Experts have names in files that differ from those in memory."""
    sizes = {"vocab_size": 501, "hidden_size": 32, "intermediate_size": 40, "num_hidden_layers": 3}
    sizes |= {"num_attention_heads": 4, "num_key_value_heads": 2, "max_position_embeddings": 48, "num_local_experts": 3}
    return made(transformers.MixtralForCausalLM, transformers.MixtralConfig(**sizes))


def stretched() -> Any:
    """Llama for a longer context, as it was done at first."""
    return llama(rope_parameters={"rope_type": "linear", "rope_theta": 500.0, "factor": 3.0})


@pytest.mark.parametrize("make", [gpt2, llama, stretched, nanochat, other_gpt2, qwen3, mixture, biased])
def test_a_folder_computes_what_transformers_does(make: Callable[[], Any], tmp_path: Path) -> None:
    theirs = make()
    folder = saved(theirs, tmp_path / "published", max_shard_size="40KB")
    assert (folder / "model.safetensors.index.json").exists() and len(list(folder.glob("model-*.safetensors"))) > 2
    loaded = find_named_model(str(folder)).load()
    ids = torch.randint(500, (2, 48), generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        logits, expected = loaded.model(ids), theirs(ids).logits
        known = logits.size(-1)  # what the tokenizer lacks is left out
        if known < expected.size(-1):
            torch.testing.assert_close(logits, expected[..., :known], rtol=0, atol=1e-4)
            return
        torch.testing.assert_close(logits, expected, rtol=0, atol=1e-4)
        loss = loaded.model(ids[:, :-1], ids[:, 1:].contiguous()) / ids[:, 1:].numel()
        torch.testing.assert_close(loss, theirs(ids, labels=ids).loss)
    assert logits.std() > 0.3 and not loaded.is_chat
    text = "One morning, Alice"
    assert loaded.tokenizer.encode(text) == transformers.AutoTokenizer.from_pretrained(folder).encode(
        text, add_special_tokens=False
    )
    written = (hf_folder(str(folder)) / "model.safetensors").stat().st_mtime_ns
    assert (hf_folder(str(folder)) / "model.safetensors").stat().st_mtime_ns == written  # from the cache


def test_names_as_the_oldest_files_have_them(tmp_path: Path) -> None:
    theirs = gpt2()
    folder = saved(theirs, tmp_path / "published")
    weights = {name.removeprefix("transformer."): x.clone() for name, x in theirs.transformer.state_dict().items()}
    weights |= {f"h.{layer}.attn.bias": torch.ones(1, 1, 48, 48).tril() for layer in range(2)}
    save_file(weights, folder / "model.safetensors")
    ids = torch.arange(40)[None]
    torch.testing.assert_close(find_named_model(str(folder)).load().model(ids), theirs(ids).logits, rtol=0, atol=1e-4)

    tied = llama(tie_word_embeddings=True)
    folder = saved(tied, tmp_path / "tied")
    weights = {name: x.clone() for name, x in tied.state_dict().items()}
    assert "lm_head.weight" in weights
    save_file(weights, folder / "model.safetensors")
    torch.testing.assert_close(find_named_model(str(folder)).load().model(ids), tied(ids).logits, rtol=0, atol=1e-4)


def test_it_computes_in_the_dtype_that_its_description_names(tmp_path: Path) -> None:
    theirs = llama().to(torch.bfloat16)
    folder = saved(theirs, tmp_path / "published")
    assert json.loads((folder / "config.json").read_text())["dtype"] == "bfloat16"
    ours = find_named_model(str(folder)).load().model
    assert ours.config.compute_dtype == "bfloat16" and ours.head_weight.dtype == torch.float32  # the masters
    ids = torch.arange(40)[None]
    rounded, exact = theirs(ids).logits.float(), theirs.float()(ids).logits
    assert 0 < (ours(ids) - exact).std() < 1.2 * (rounded - exact).std()
    folder = saved(nanochat().to(torch.bfloat16), tmp_path / "norms of 1e-6")
    assert find_named_model(str(folder)).load().model.config.compute_dtype == "float32"


def test_by_its_name_on_the_hub(tmp_path: Path) -> None:
    theirs = gpt2()
    saved(theirs, tmp_path / "hub" / "org" / "small")
    with HubServer(tmp_path / "hub") as hub, hub_client(hub, tmp_path):
        loaded = find_named_model("hf:org/small").load()
        with pytest.raises(UserError, match="no repository of that name"):
            find_named_model("hf:org/nothing")
    ids = torch.arange(40)[None]
    torch.testing.assert_close(loaded.model(ids), theirs(ids).logits, rtol=0, atol=1e-4)


def test_an_export_of_ours_comes_back(tmp_path: Path) -> None:
    for config in (NANOCHAT_TINY, dataclasses.replace(NANOCHAT_TINY, smear=False), FIRST_NANOCHAT):
        ours = LoadedModel(randomized(config).eval(), ByteTokenizer(), {"step": 3.0}, "sft")
        export_to_hf(ours, "runs/test", tmp_path / "export")
        again = find_named_model(str(tmp_path / "export")).load()
        assert again.model.config == config and again.is_chat and again.facts == ours.facts
        assert again.tokenizer.special_tokens == ByteTokenizer().special_tokens
        ids = torch.arange(16)[None]
        assert torch.equal(again.model(ids), ours.model(ids))
    for name in ("nanochat_pl.json", "model.json"):  # as where transformers has saved the first nanochat again
        (tmp_path / "export" / name).unlink(missing_ok=True)
    again = find_named_model(str(tmp_path / "export")).load()
    assert again.model.config == FIRST_NANOCHAT and again.is_chat
    assert again.tokenizer.special_tokens == ByteTokenizer().special_tokens
    assert torch.equal(again.model(ids), ours.model(ids))


def test_it_is_finetuned_with_a_shorter_context_then_learns_conversations(tmp_path: Path) -> None:
    theirs = gpt2()
    folder = saved(theirs, tmp_path / "published")
    kept = [option for option in SMALL if not option.startswith(("tokenizer", "model."))]
    few = ("horizon.steps=2", "trainer.validate_every_n_steps=2", "optim=adamw", "schedule=constant")
    options = (*kept, *few, f"stage.init_from={folder}", "stage.sequence_len=16", "stage.dropout=0.1")
    code, output = train(*options, "optim.lr=0", "horizon.total_batch_tokens=96", runs=tmp_path)
    assert code == 0, output
    base = load_model_folder(tmp_path / "test")
    assert base.model.config.sequence_len == 16 and base.model.config.dropout == 0.1
    torch.testing.assert_close(base.model.position.weight, theirs.transformer.wpe.weight[:16])  # the rate is 0
    ids = torch.arange(16)[None]
    torch.testing.assert_close(base.model(ids), theirs(ids).logits, rtol=0, atol=1e-4)

    later = [option for option in (*kept, *few) if not option.startswith("data")]
    chats = (f"tasks.path={chats_file(tmp_path)}", "tasks=custom", "data.streams=4", "callbacks.evaluate=null")
    code, output = train(
        "stage=mid", *later, *chats, *options[-3:-2], "optim.lr=0", "horizon.total_batch_tokens=96", runs=tmp_path
    )
    assert code == 0, output
    chat = load_model_folder(tmp_path / "test")
    assert chat.is_chat and chat.model.config.vocab_size == chat.tokenizer.vocab_size == 501 + 8
    torch.testing.assert_close(chat.model(ids)[..., :501], theirs(ids).logits, rtol=0, atol=1e-4)
    new = chat.model.embedding.weight[501 : 501 + 8]
    torch.testing.assert_close(new, theirs.transformer.wte.weight.mean(0).expand_as(new))


@pytest.mark.slow
def test_a_model_of_transformers_learns_conversations_in_a_shorter_context(tmp_path: Path) -> None:
    theirs = qwen3()
    folder = saved(theirs, tmp_path / "published")
    kept = [option for option in SMALL if not option.startswith(("tokenizer", "model.", "data"))]
    chats = (f"tasks.path={chats_file(tmp_path)}", "tasks=custom", "data.streams=4", "callbacks.evaluate=null")
    few = ("horizon.steps=2", "trainer.validate_every_n_steps=2", "optim=adamw", "optim.lr=0", "schedule=constant")
    code, output = train(
        "stage=sft", *kept, *chats, *few, f"stage.init_from={folder}", "stage.sequence_len=32", runs=tmp_path
    )
    assert code == 0, output
    chat = load_model_folder(tmp_path / "test")
    config = chat.model.config
    assert chat.is_chat and (config.sequence_len, config.longest, config.vocab_size) == (32, 48, 501 + 8)
    ids = torch.arange(40)[None]
    torch.testing.assert_close(chat.model(ids)[..., :501], theirs(ids).logits, rtol=0, atol=1e-4)


def test_nanogpt_s_checkpoint(tmp_path: Path) -> None:
    theirs = gpt2(activation_function="gelu")
    weights = {
        f"_orig_mod.{name}": x.t().contiguous() if x.ndim == 2 and ".c_" in name else x
        for name, x in theirs.state_dict().items()
    }
    sizes = {"n_layer": 2, "n_head": 2, "n_embd": 32, "block_size": 48, "vocab_size": 501}  # as before it knew `bias`
    checkpoint = {"model": weights, "model_args": sizes, "iter_num": 70, "best_val_loss": torch.tensor(3.0)}
    (tmp_path / "out").mkdir()
    torch.save(checkpoint, tmp_path / "out" / "ckpt.pt")
    tokenizer = hf_folder(str(saved(gpt2(), tmp_path / "published"))) / "tokenizer"
    result = imported(
        str(tmp_path / "out"), "--from", "nanogpt", "--tokenizer", str(tokenizer), "--out", str(tmp_path / "m")
    )
    assert result.exit_code == 0, result.output
    loaded = load_model_folder(tmp_path / "m")
    assert loaded.facts["step"] == 70
    ids = torch.arange(40)[None]
    torch.testing.assert_close(loaded.model(ids), theirs(ids).logits, rtol=0, atol=1e-4)
    assert (gpt2()(ids).logits - theirs(ids).logits).abs().max() > 2e-4  # the other GELU would be seen


def test_the_first_nanochat_s_checkpoint(tmp_path: Path) -> None:
    ours = randomized(dataclasses.replace(FIRST_NANOCHAT, rope_base=10_000.0)).eval()
    state = ours.state_dict()
    sizes = {"sequence_len": 16, "vocab_size": 265, "n_layer": 3, "n_head": 2, "n_kv_head": 1, "n_embd": 32}
    torch.save({their: state[own] for their, own in nanochat_names(3).items() if own in state}, tmp_path / "model_7.pt")
    (tmp_path / "meta_7.json").write_text(json.dumps({"step": 7, "model_config": sizes}))
    read_nanochat(tmp_path).save(tmp_path / "m", ByteTokenizer(), "a test")
    loaded = load_model_folder(tmp_path / "m").model
    assert loaded.config == ours.config
    ids = torch.arange(16)[None]
    assert torch.equal(loaded(ids), ours(ids))


def test_nanochat_s_checkpoint(tmp_path: Path) -> None:
    ours = randomized(NANOCHAT_TINY).eval()
    folder = tmp_path / "chatsft_checkpoints" / "d3"
    folder.mkdir(parents=True)
    state = ours.state_dict()
    weights = {f"_orig_mod.{name}": state.pop(own) for name, own in nanochat_names(n_layer=3).items()}
    assert not state
    sizes = {
        name: getattr(NANOCHAT_TINY, name) for name in ("sequence_len", "vocab_size", "n_layer", "n_head", "n_kv_head")
    }
    meta = {"step": 5, "val_bpb": 1.5, "model_config": sizes | {"n_embd": 32, "window_pattern": "sssl"}}
    torch.save(weights, folder / "model_000005.pt")
    (folder / "meta_000005.json").write_text(json.dumps(meta))
    refused = imported(folder, "--from", "nanochat")
    assert isinstance(refused.exception, UserError) and "tokenizer.pkl" in str(refused.exception)
    ByteTokenizer().save(tmp_path / "bytes")
    options = (str(folder), "--from", "nanochat", "--tokenizer", str(tmp_path / "bytes"), "--out")
    below_a_file = known_error(imported(*options, str(folder / "meta_000005.json" / "m")).exception)
    assert isinstance(below_a_file, UserError) and "meta_000005.json" in str(below_a_file)
    result = imported(*options, str(tmp_path / "m"))
    assert result.exit_code == 0, result.output
    loaded = load_model_folder(tmp_path / "m")
    ids = torch.arange(16)[None]
    assert torch.equal(loaded.model(ids), ours(ids))
    assert loaded.stage == "sft" and loaded.facts == {"step": 5.0, "val_bpb": 1.5}


def nanochat_names(n_layer: int) -> dict[str, str]:
    """The parameters of nanochat's gpt.py (92d63d4), and what they are called here."""
    names = {
        "transformer.wte.weight": "embedding.weight",
        "lm_head.weight": "head.weight",
        "resid_lambdas": "resid_scalars",
        "x0_lambdas": "x0_scalars",
        "smear_gate.weight": "smear_gate.weight",
        "smear_lambda": "smear_scale",
        "backout_lambda": "backout_scale",
    }
    parts = {"attn.c_q": "attn.query", "attn.c_k": "attn.key", "attn.c_v": "attn.value", "attn.c_proj": "attn.proj"}
    parts |= {"mlp.c_fc": "mlp.fc", "mlp.c_proj": "mlp.proj"}
    for layer in range(n_layer):
        theirs, own = f"transformer.h.{layer}", f"blocks.{layer}"
        names |= {f"{theirs}.{part}.weight": f"{own}.{here}.weight" for part, here in parts.items()}
        if layer % 2 == (n_layer - 1) % 2:
            names[f"{theirs}.attn.ve_gate.weight"] = f"{own}.attn.value_gate.weight"
            names[f"value_embeds.{layer}.weight"] = f"value_embeddings.{layer}.weight"
    return names


@pytest.mark.parametrize(("known", "size"), [(256, 257), (257, 257), (265, 265), (304, 257)])
def test_special_tokens_that_a_model_has_not_learned_wait_for_conversations(
    known: int, size: int, tmp_path: Path
) -> None:
    """A model of text alone gets the token that begins documents; one that was trained with all keeps all."""
    config = GPT2Config(vocab_size=known, sequence_len=8, n_layer=1, n_head=1, n_kv_head=1, n_embd=8)
    weights = randomized(config).state_dict()
    weights["embedding.weight"] = weights["embedding.weight"][:known]
    ForeignModel(config, weights, None).save(tmp_path / "m", ByteTokenizer(), "a test")
    model = load_model_folder(tmp_path / "m").model
    assert model.config.vocab_size == size
    table, both = weights["embedding.weight"], min(known, size)
    assert torch.equal(model.embedding.weight[:both], table[:both])
    assert size <= known or torch.equal(model.embedding.weight[256], table.mean(0))
    later = Parent(tmp_path / "m", "base")
    assert later.config("float32", learns_conversations=True).vocab_size == 265


def imported(*arguments: Path | str) -> Any:
    return CliRunner().invoke(checkpoints.app, ["import", *map(str, arguments)])


class Trap:
    """Whose pickle, once loaded, makes a file."""

    def __init__(self, path: Path):
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (str(self.path),)


def test_pickles_that_could_run_a_program_are_refused(tmp_path: Path) -> None:
    torch.save({"model": Trap(tmp_path / "sprung")}, tmp_path / "ckpt.pt")
    result = imported(tmp_path, "--from", "nanogpt")
    assert isinstance(result.exception, UserError) and "could run any program" in str(result.exception)
    folder = saved(gpt2(), tmp_path / "published")
    (folder / "model.safetensors").unlink()
    for is_zip in (False, True):  # torch's files were none until its version 1.6
        torch.save(
            {"wte.weight": Trap(tmp_path / "sprung")},
            folder / "pytorch_model.bin",
            _use_new_zipfile_serialization=is_zip,
        )
        with pytest.raises(UserError, match="could run any program"):
            hf_folder(str(folder))
        torch.save(gpt2().state_dict(), folder / "pytorch_model.bin", _use_new_zipfile_serialization=is_zip)
        assert load_model_folder(hf_folder(str(folder))).model.config.n_layer == 2
    assert not (tmp_path / "sprung").exists()


@pytest.mark.parametrize(
    ("found", "words"),
    [
        ([torch.zeros(2)], "they are a list"),
        ({0: torch.zeros(2)}, "under 0 is a Tensor"),
        ({"model": {"wte.weight": torch.zeros(2)}}, "under 'model' is a dict"),
        ({"wte.weight": torch.zeros(2, 2).to_sparse()}, "under 'wte.weight' is a Tensor"),
    ],
)
def test_weights_that_are_no_tensors_by_name(found: Any, words: str, tmp_path: Path) -> None:
    folder = saved(gpt2(), tmp_path / "published")
    (folder / "model.safetensors").unlink()
    torch.save(found, folder / "pytorch_model.bin")
    with pytest.raises(UserError, match=words):
        hf_folder(str(folder))
    sizes = {"n_layer": 2, "n_head": 2, "n_embd": 32, "block_size": 48, "vocab_size": 501}
    torch.save({"model": found, "model_args": sizes, "iter_num": 7}, tmp_path / "ckpt.pt")
    result = imported(tmp_path, "--from", "nanogpt")
    assert isinstance(result.exception, UserError) and words in str(result.exception)


def test_files_of_any_other_content_are_refused(tmp_path: Path) -> None:
    for found in ([1], torch.zeros(3), {"model": {}, "model_args": 3, "iter_num": 1}):
        torch.save(found, tmp_path / "ckpt.pt")
        result = imported(tmp_path, "--from", "nanogpt")
        assert isinstance(result.exception, UserError) and "no checkpoint of nanoGPT" in str(result.exception)
    folder = saved(gpt2(), tmp_path / "published")
    result = imported(folder, "--from", "nanogpt")
    assert isinstance(result.exception, UserError) and "needs no import" in str(result.exception)
    weights = gpt2().state_dict()
    for name in ("transformer.wte.weight", "transformer.h.0.attn.c_attn.weight", "transformer.h.0.attn.c_attn.bias"):
        save_file(
            {n: torch.zeros(()) if n == name else x.clone() for n, x in weights.items()}, folder / "model.safetensors"
        )
        with pytest.raises(UserError, match="a number, in the model"):
            hf_folder(str(folder))


def test_a_damaged_description_is_named_and_none_runs_code(tmp_path: Path) -> None:
    folder = saved(gpt2(), tmp_path / "published")
    (folder / "nanochat_pl.json").write_text(
        json.dumps({"architecture": "this.s", "config": {}, "facts": {}, "stage": "base"})
    )
    with pytest.raises(UserError, match=r"'this\.s' is none of nanochat, gpt2, llama"):
        hf_folder(str(folder))
    assert "this" not in sys.modules
    (folder / "nanochat_pl.json").unlink()
    config = json.loads((folder / "config.json").read_text())
    for change in (
        {"n_embd": None},
        {"n_layer": "4"},
        {"model_type": ["gpt2"]},
        {"model_type": "llama", "hidden_size": 8},
        {"n_embd": 10**12 + 1},  # which nothing may be made of
        {"n_layer": 10**12},
        {"vocab_size": 10**15},
        {"n_positions": 10**9},
        {"n_embd": 1 << 23},
        {"n_embd": float("inf")},
    ):
        (folder / "config.json").write_text(json.dumps(config | change))
        with pytest.raises(UserError):
            hf_folder(str(folder))


def test_weights_of_another_model_are_named(tmp_path: Path) -> None:
    folder = saved(gpt2(), tmp_path / "published")
    llama().save_pretrained(tmp_path / "other")
    (tmp_path / "other" / "model.safetensors").replace(folder / "model.safetensors")
    with pytest.raises(UserError) as raised:
        hf_folder(str(folder))
    message = str(raised.value)
    assert message.count(" is missing") == 3 and "embedding.weight is missing" in message and "Llama" in message
    ours = find_named_model(str(saved(gpt2(), tmp_path / "right"))).path
    other = build_model(dataclasses.replace(load_model_folder(ours).model.config, n_embd=64), "cpu", 0)
    with pytest.raises(UserError, match=r"embedding.weight is 512 x 32, in the model 512 x 64; .* gpt2, "):
        load_weights(other, ours, "cpu")


SCALED = {"rope_type": "llama3", "factor": 2.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0}
SCALED |= {"original_max_position_embeddings": 16}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"model_type": "gpt_neix"}, "no causal language model of the type 'gpt_neix'; did you mean 'gpt_neox'"),
        ({"model_type": "gpt_neox"}, "weights of another model than its config.json says: .* is missing"),
        ({"model_type": "llama", "rope_scaling": SCALED | {"factor": float("inf")}}, "rope_scaling has factor inf"),
        ({"model_type": "llama", "rope_scaling": SCALED | {"original_max_position_embeddings": 0}}, "at least 1: the"),
        ({"vocab_size": 400}, "knows 400 tokens, but the tokenizer has 509"),
    ],
)
def test_what_is_not_computed_here_is_refused(change: dict[str, Any], message: str, tmp_path: Path) -> None:
    folder = saved(gpt2(), tmp_path / "published")
    sizes = {"hidden_size": 32, "num_attention_heads": 2, "num_hidden_layers": 2, "max_position_embeddings": 48}
    config = sizes | {"intermediate_size": 128} | json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | change))
    with pytest.raises(UserError, match=message):
        hf_folder(str(folder))


def test_a_longer_context_than_the_learned_positions_is_refused(tmp_path: Path) -> None:
    folder = str(saved(gpt2(), tmp_path / "published"))
    with pytest.raises(UserError, match=r"stage.sequence_len=49 is more than the model has learned positions for, 48"):
        find_parent("base", [], folder, "", {"sequence_len": 49}).config("float32")
    assert Parent(hf_folder(folder), "base", changes={"sequence_len": 48}).config("float32").sequence_len == 48


@pytest.mark.slow
@pytest.mark.parametrize("experiment", ["finetune_shakespeare", "eval_gpt2"])
def test_experiments_with_the_published_weights(experiment: str, tmp_path: Path) -> None:
    pyarrow, parquet = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
    theirs, texts = gpt2(), tmp_path / "texts"
    texts.mkdir()
    documents = [f"The {n}th text. " * (1 + n % 7) for n in range(300)]
    (texts / "all.txt").write_text("\n\n".join(documents))
    parquet.write_table(pyarrow.table({"text": documents}), texts / "all.parquet")
    data = {"finetune_shakespeare": (f"data.path={texts / 'all.txt'}",)}.get(
        experiment, (f"data.path={texts}", "data.config=null", "data.val_fraction=0.2")
    )
    cuts = ("hw=cpu", "hw.threads=1", "horizon.total_batch_tokens=96", "data.val_tokens=960", "data.streams=2")
    fewer = ("callbacks.samples=null", "callbacks.loss_picture=null", "horizon.steps=2", "run.name=test")
    folder = saved(theirs, tmp_path / "published")
    code, output = train(
        f"experiment={experiment}", f"stage.init_from={folder}", *data, *cuts, *fewer, runs=tmp_path / "runs"
    )
    assert code == 0, output
    found = load_model_folder(tmp_path / "runs" / "test")
    moved = (found.model.position.weight - theirs.transformer.wpe.weight).abs().max()
    assert (moved == 0) == (experiment == "eval_gpt2") and "val bpb" in output


def test_each_size_is_evaluated_by_its_name() -> None:
    names = {name: compose([f"experiment={name}"]).stage.init_from for name in EVALUATIONS}
    assert names == {name: f"hf:{name.removeprefix('eval_').replace('_', '-')}" for name in EVALUATIONS}
