"""Models that transformers computes: they train, go on and travel as others do, and equal the library's own."""

import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest
import torch

from nanochat_pl.checkpoint.hf_export import export_to_hf
from nanochat_pl.checkpoint.model_folder import LoadedModel, load_model_folder, save_model_folder
from nanochat_pl.core.errors import UserError
from nanochat_pl.core.types import IGNORE_INDEX
from nanochat_pl.inference.engine import Engine
from nanochat_pl.inference.sampling import Sampling
from nanochat_pl.models.contract import ROLES, build_model
from nanochat_pl.models.cost import ModelCost
from nanochat_pl.models.execution import Execution
from nanochat_pl.models.hf import HFConfig, HFSpec, read_config
from nanochat_pl.planning.trace import trace
from nanochat_pl.tokenizers.byte import ByteTokenizer
from tests.models.test_nanochat import batch, randomized

transformers = pytest.importorskip("transformers")

SIZES: dict[str, Any] = {"depth": 2, "n_embd": 32, "head_dim": 8, "n_kv_head": 2, "sequence_len": 48}
KINDS: dict[str, dict[str, Any]] = {
    "qwen3": {},
    "gemma2": {"sliding_window": 8},  # windows in every other layer, a cap on the logits, one table, scaled embeddings
    "phi": {},  # a bias behind the head
    "cohere": {"logit_scale": 0.3},
    "qwen3_moe": {"num_experts": 4, "moe_intermediate_size": 16, "num_experts_per_tok": 2},
    "mamba": {},  # no attention, and states that cannot be padded
}
NOT_PLAIN = ("phi", "cohere")


def config_of(kind: str, **options: Any) -> HFConfig:
    return HFSpec(**SIZES, model_type=kind, options=KINDS[kind] | options).config(265)


@pytest.fixture(scope="module", params=KINDS)
def both(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[Any, Any]:
    """Our model, and the same as transformers loads what was exported of it."""
    folder = tmp_path_factory.mktemp("hf")
    ours = randomized(config_of(request.param)).eval()
    export_to_hf(LoadedModel(ours, ByteTokenizer(), {}, "base"), "runs/test", folder)
    theirs, found = transformers.AutoModelForCausalLM.from_pretrained(folder, output_loading_info=True)
    assert not found["missing_keys"] and not found["unexpected_keys"]
    assert theirs.config.model_type == request.param
    return ours, theirs


def test_logits_loss_and_gradients_equal_the_library_s(both: tuple[Any, Any]) -> None:
    ours, theirs = both
    ids, targets = batch(ours.config)
    ids[ids == theirs.config.pad_token_id] = 1  # the library gives what pads no gradient
    V = ours.config.vocab_size
    expected = theirs(ids).logits[..., :V]
    logits = ours(ids)
    assert logits.shape == (2, 48, V) and logits.std() > 0.1
    torch.testing.assert_close(logits, expected, rtol=0, atol=1e-4)
    places = torch.tensor([3, 60])
    torch.testing.assert_close(ours(ids, at=places), logits.flatten(0, 1)[places])
    weights = torch.rand(targets.shape)
    loss = ours(ids, targets, weights)
    their_losses = torch.nn.functional.cross_entropy(
        expected.flatten(0, 1), targets.flatten(), ignore_index=IGNORE_INDEX, reduction="none"
    )
    torch.testing.assert_close(loss, (their_losses * weights.flatten()).sum())
    torch.testing.assert_close(
        ours(ids, targets, weights, reduction="none").flatten(), their_losses * weights.flatten()
    )
    loss.backward()
    (their_losses * weights.flatten()).sum().backward()
    wanted = dict(theirs.named_parameters())
    found = {name.removeprefix("net."): parameter.grad for name, parameter in ours.named_parameters()}
    assert found.keys() == wanted.keys()
    for name, parameter in wanted.items():
        own = found[name][: len(parameter)]
        torch.testing.assert_close(own, parameter.grad, rtol=1e-3, atol=1e-4, msg=lambda m, n=name: f"{n}: {m}")


def test_answers_to_several_prompts_equal_the_library_s(both: tuple[Any, Any]) -> None:
    """Rows join, leave and go on, each as if it were alone."""
    ours, theirs = both
    prompts = [[61, 5, 9, 33], [61, 2, 3, 40, 41, 42, 43, 44, 45, 1, 60, 7], [3], [61, 2, 3, 9]]
    lengths = [20, 30, 8, 25]
    engine = Engine(ours, max_rows=3)
    requests = [
        engine.submit(prompt, Sampling(max_new_tokens=n, temperature=0.0))[0] for prompt, n in zip(prompts, lengths)
    ]
    answers: dict[int, list[int]] = {request: [] for request in requests}
    for token in engine.run():
        answers[token.request].append(token.id)
    theirs.generation_config.eos_token_id = None
    for request, prompt, length in zip(requests, prompts, lengths, strict=True):
        wanted = theirs.generate(torch.tensor([prompt]), max_new_tokens=length, do_sample=False)[0].tolist()
        assert prompt + answers[request] == wanted
    again = engine.submit(wanted, Sampling(max_new_tokens=3, temperature=0.0))[0]  # goes on from a row that is kept
    more = [token.id for token in engine.run() if token.request == again]
    alone = Engine(ours).generate([wanted], Sampling(max_new_tokens=3, temperature=0.0))[0]
    assert more == alone


@torch.no_grad()
def test_continuations_of_one_prefix(both: tuple[Any, Any]) -> None:
    ours, _ = both
    ids = torch.randint(265, (2, 3, 20), generator=torch.Generator().manual_seed(2))
    ids[:, :, :12] = ids[:, :1, :12]
    cache = ours.build_cache(2, 20)
    ours(ids[:, 0, :12], cache=cache)
    for _ in range(2):  # the prefix stays as it is
        found = ours(ids[:, :, 12:].flatten(0, 1), cache=cache.branches(3))
        torch.testing.assert_close(found, ours(ids.flatten(0, 1))[:, 12:], rtol=0, atol=1e-4)


@torch.no_grad()
def test_documents_of_a_row_do_not_see_each_other(both: tuple[Any, Any]) -> None:
    ours, _ = both
    ids = torch.randint(265, (2, 30), generator=torch.Generator().manual_seed(3))
    documents = (torch.arange(30) >= torch.tensor([[11], [20]])).long()
    if ours.config.values["model_type"] == "mamba":
        with pytest.raises(UserError, match="MambaForCausalLM does not keep the documents of a row apart"):
            ours(ids, documents=documents)
        return
    logits = ours(ids, documents=documents)
    torch.testing.assert_close(logits[0, 11:], ours(ids[:1, 11:])[0], rtol=0, atol=1e-4)
    torch.testing.assert_close(logits[1, 20:], ours(ids[1:, 20:])[0], rtol=0, atol=1e-4)
    assert (logits[0, 11:] - ours(ids)[0, 11:]).abs().max() > 1e-2


def test_roles_cost_and_memory_of_every_kind() -> None:
    for kind in KINDS:
        config = config_of(kind)
        model = build_model(config, "cpu", seed=1)
        roles = model.param_roles()
        assert set(roles.values()) <= set(ROLES) and roles.keys() == dict(model.named_parameters()).keys()
        assert "unembedding" in roles.values() and "matrix" in roles.values()
        again = build_model(config, "cpu", seed=1)
        assert all(torch.equal(a, b) for a, b in zip(model.parameters(), again.parameters()))
        assert any(
            not torch.equal(a, b) for a, b in zip(model.parameters(), build_model(config, "cpu", 2).parameters())
        )
        cost = ModelCost(config)
        assert cost.parameters == sum(parameter.numel() for parameter in model.parameters())
        assert all(model.config.windows) and len(config.windows) == config.n_layer
        if kind in ("qwen3", "qwen3_moe"):  # one whose code runs on shapes, and one whose does not
            small, large = (trace(config, rows, "cuda", documents=True).peak for rows in (1, 4))
            assert 0 < small < large
    assert config_of("gemma2").windows == (7, 47)
    assert (
        trace(config_of("qwen3"), 4, "cpu", recompute=True).activations
        < trace(config_of("qwen3"), 4, "cpu").activations
    )


def test_a_recomputed_layer_has_the_same_gradients() -> None:
    config = config_of("qwen3")
    ids, targets = batch(config)
    gradients = []
    for recompute in (False, True):
        model = build_model(config, "cpu", 3, Execution(recompute=recompute)).train()
        model(ids, targets).backward()
        gradients.append([parameter.grad for parameter in model.parameters()])
    for one, other in zip(*gradients):
        torch.testing.assert_close(one, other)


@pytest.mark.parametrize("kind", ["qwen3", "gemma2"])
def test_answers_in_the_middle_of_a_training_that_recomputes(kind: str) -> None:
    model = build_model(config_of(kind), "cpu", 3, Execution(recompute=True))
    prompts, settings = [[61, 5, 9, 33], [7, 8]], Sampling(max_new_tokens=12, temperature=0.0)
    wanted = Engine(model.eval()).generate(prompts, settings)
    assert Engine(model.train()).generate(prompts, settings) == wanted and model.training and model.net.training


@pytest.mark.parametrize("length", range(6, 11))
def test_a_row_that_is_kept_is_gone_on_from_at_the_edge_of_its_window(length: int) -> None:
    model = randomized(config_of("gemma2")).eval()  # windows of 8
    engine, text = Engine(model), list(range(20, 20 + length))
    engine.generate([text], Sampling(max_new_tokens=1, temperature=0.0))
    prompt = [*text[:4], 100, 101]
    settings = Sampling(max_new_tokens=8, temperature=0.0)
    assert engine.generate([prompt], settings) == Engine(model).generate([prompt], settings)


@pytest.mark.parametrize("kind", [*KINDS, "apertus", "openai-gpt"])
def test_every_weight_has_an_initial_value(kind: str) -> None:
    """Also those that the library sets in a constructor."""
    spec = HFSpec(**SIZES, model_type=kind, options=KINDS.get(kind))
    one, other = (build_model(spec.config(265), "cpu", seed=4) for _ in range(2))
    for (name, a), b in zip(one.named_parameters(), other.parameters(), strict=True):
        assert torch.equal(a, b) and a.isfinite().all(), name


def test_an_encoder_is_made_to_see_the_past_alone() -> None:
    spec = HFSpec(**SIZES | {"n_kv_head": None}, model_type="bert")
    model = randomized(spec.config(265)).eval()
    ids = torch.arange(20)[None]
    changed = ids.clone()
    changed[:, 15:] = 7
    torch.testing.assert_close(model(ids)[:, :15], model(changed)[:, :15])


def test_a_factor_of_the_logits_costs_no_logits_of_all_tokens() -> None:
    model = randomized(config_of("cohere")).eval()
    assert model.tried.factor == pytest.approx(0.3) and randomized(config_of("phi")).tried.factor is None
    half = dataclasses.replace(config_of("gemma2"), compute_dtype="bfloat16")
    assert randomized(half).tried.factor == 1


def test_a_file_cannot_choose_code() -> None:
    values = config_of("qwen3").values | {"attn_implementation": "someone/kernel", "_attn_implementation": "a/b"}
    assert "/" not in str(read_config(values)._attn_implementation)
    with pytest.raises(UserError, match="quantized"):
        read_config(values | {"quantization_config": {"quant_method": "gptq"}})


def test_half_precision_keeps_float32_weights(both: tuple[Any, Any]) -> None:
    values = both[0].config.as_dict() | {"compute_dtype": "bfloat16"}
    half = build_model(HFConfig(**values), "cpu", None).eval()
    half.load_state_dict(both[0].state_dict())
    ids = torch.arange(40)[None]
    exact, rounded = both[0](ids), half(ids)
    assert 0 < (exact - rounded).abs().mean() < 0.1 * exact.std()
    assert all(parameter.dtype == torch.float32 for parameter in half.parameters())


def test_a_published_shape(tmp_path: Path) -> None:
    published = config_of("gemma2")
    (tmp_path / "config.json").write_text(json.dumps(published.theirs.to_dict()))
    config = HFSpec(size=str(tmp_path), sequence_len=16, options={"num_hidden_layers": 1}).config(1000)
    assert (config.n_layer, config.n_embd, config.vocab_size, config.sequence_len) == (1, 32, 1000, 16)
    assert config.longest == 48 and config.windows == (7,)
    model = build_model(config, "cpu", 0)
    assert model(torch.zeros(1, 16, dtype=torch.int64)).shape == (1, 16, 1000)
    assert HFSpec(size=str(tmp_path), sequence_len=16).of_depth(4).config(100).n_layer == 4


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"model_type": "qwen33"}, r"no causal language model of the type 'qwen33'; did you mean 'qwen3\?*'"),
        ({"options": {"num_key_value_heads": "two"}}, "transformers makes no qwen3 of these options: .*two"),
        ({"options": {"max_position_embeddings": 16}}, "sequence_len=48 is more than the 16 positions"),
        ({"size": "/nowhere"}, "model.size=/nowhere has no config.json"),
        ({"window_pattern": "SL"}, "model.window_pattern=SL is no option of model=hf"),
        ({"long_window": 100}, "model.long_window is no option of model=hf"),
        ({"options": {"hiden_size": 64}}, r"no option model.options.hiden_size; did you mean 'hidden_size'\?"),
        ({"options": {"vocab_size": 64}}, "vocab_size follows from the tokenizer"),
        ({"n_kv_head": 3}, "does not go by"),
    ],
)
def test_mistakes(options: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        HFSpec(**SIZES | options).config(265)


def test_what_needs_layers_of_ours_is_refused() -> None:
    with pytest.raises(UserError, match=r"hw.precision=float8 needs layers of ours"):
        build_model(config_of("qwen3"), "meta", None, Execution(float8=True))


def test_the_portable_folder(both: tuple[Any, Any], tmp_path: Path) -> None:
    ours, _ = both
    save_model_folder(tmp_path / "model", ours, ours.config, ByteTokenizer(), {"step": 2})
    again = load_model_folder(tmp_path / "model")
    assert again.model.config == ours.config and hash(again.model.config) == hash(ours.config)
    ids = torch.arange(30)[None]
    assert torch.equal(again.model(ids), ours(ids))
