"""The nanochat model against the plain implementation, transformers', and its own promises."""

import dataclasses
import itertools

import pytest
import torch

from nanochat_pl.core.errors import UserError
from nanochat_pl.core.types import IGNORE_INDEX
from nanochat_pl.models.contract import ROLES, architecture_of, build_config, build_model
from nanochat_pl.models.nanochat import NanoChatConfig
from tests.reference.plain_gpt import plain_logits, plain_losses

TINY = NanoChatConfig(
    vocab_size=70, sequence_len=24, n_layer=4, n_head=4, n_kv_head=2, n_embd=32, window_pattern="SL", short_window=5
)
SWITCHES = {
    "as nanochat": {},
    "no value embeddings": {"value_embeddings": False},
    "no smear": {"smear": False},
    "no backout": {"backout": False},
    "no scalars": {"scalars": False},
    "no softcap": {"softcap": None},
    "no window": {"window_pattern": "L"},
    "plain scores": {"qk_scale": 1.0},
    "all heads": {"n_kv_head": 4},
    "one key head": {"n_kv_head": 1},
    "one layer": {"n_layer": 1},
    "three layers": {"n_layer": 3},
    "alibi": {"position": "alibi"},
    "alibi of six odd heads that see further": {
        "position": "alibi",
        "n_embd": 30,
        "n_head": 6,
        "n_kv_head": 2,
        "long_window": 60,
    },
    "no positions": {"position": "none"},
    "the first nanochat": {
        "value_embeddings": False,
        "smear": False,
        "backout": False,
        "scalars": False,
        "window_pattern": "L",
        "qk_scale": 1.0,
    },
}


def randomized(config, seed=0):
    """A model none of whose parameters is zero or neutral."""
    model = build_model(config, device="cpu", seed=seed)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            scale = 0.5 if parameter.ndim == 1 else 1.5 * parameter.size(-1) ** -0.5
            parameter.add_(scale * torch.randn(parameter.shape, generator=generator))
    return model


def batch(config, rows=2, seed=1):
    generator = torch.Generator().manual_seed(seed)
    ids = torch.randint(config.vocab_size, (rows, config.sequence_len + 1), generator=generator)
    targets = ids[:, 1:].clone()
    targets[0, :3] = IGNORE_INDEX
    return ids[:, :-1], targets


@pytest.mark.parametrize("switch", SWITCHES)
def test_logits_loss_and_gradients_equal_the_plain_implementation(switch):
    config = dataclasses.replace(TINY, **SWITCHES[switch])
    model = randomized(config)
    ids, targets = batch(config)
    exact = {name: parameter.detach().double().requires_grad_() for name, parameter in model.named_parameters()}

    torch.testing.assert_close(model(ids).double(), plain_logits(exact, config, ids), rtol=1e-5, atol=1e-5)
    losses = model(ids, targets, reduction="none")
    expected = plain_losses(exact, config, ids, targets)
    torch.testing.assert_close(losses.double(), expected, rtol=1e-5, atol=1e-5)
    assert losses[0, :3].abs().max() == 0

    mean = 1 / (targets != IGNORE_INDEX).sum()
    (model(ids, targets) * mean).backward()
    (expected.sum() * mean).backward()
    for name, parameter in model.named_parameters():
        torch.testing.assert_close(parameter.grad.double(), exact[name].grad, rtol=1e-5, atol=1e-5, msg=name)


def test_token_losses_with_weights_have_the_gradients_of_their_weighted_sum():
    model = randomized(TINY)
    ids, targets = batch(TINY)
    weights = torch.rand(targets.shape, generator=torch.Generator().manual_seed(2)) / targets.numel()
    exact = {name: parameter.detach().double().requires_grad_() for name, parameter in model.named_parameters()}
    (plain_losses(exact, TINY, ids, targets) * weights).sum().backward()
    for loss in (model(ids, targets, weights), model(ids, targets, weights, reduction="none").sum()):
        model.zero_grad()
        loss.backward()
        for name, parameter in model.named_parameters():
            torch.testing.assert_close(parameter.grad.double(), exact[name].grad, rtol=1e-5, atol=1e-5, msg=name)


def test_one_token_alone_works():
    model = randomized(TINY)
    exact = {name: parameter.detach().double() for name, parameter in model.named_parameters()}
    ids = torch.tensor([[3], [4]])
    torch.testing.assert_close(model(ids).double(), plain_logits(exact, TINY, ids), rtol=1e-5, atol=1e-5)


def test_a_switched_off_part_has_no_parameters():
    everything = set(dict(build_model(TINY, "cpu", 0).named_parameters()))
    first = dataclasses.replace(TINY, **SWITCHES["the first nanochat"])
    left = set(dict(build_model(first, "cpu", 0).named_parameters()))
    assert left < everything
    assert {name.split(".")[0] for name in left} == {"embedding", "blocks", "head"}


@pytest.mark.parametrize("softcap", [15.0, None])
def test_logits_equal_transformers_nanochat(softcap):
    transformers = pytest.importorskip("transformers")
    switches = SWITCHES["the first nanochat"] | {"softcap": softcap, "vocab_size": 128, "rope_base": 10_000.0}
    config = dataclasses.replace(TINY, **switches)
    model = randomized(config)
    theirs = transformers.NanoChatForCausalLM(
        transformers.NanoChatConfig(
            vocab_size=config.vocab_size, hidden_size=config.n_embd, intermediate_size=4 * config.n_embd,
            num_hidden_layers=config.n_layer, num_attention_heads=config.n_head, num_key_value_heads=config.n_kv_head,
            max_position_embeddings=config.sequence_len, final_logit_softcapping=softcap,
            rms_norm_eps=torch.finfo(torch.float32).eps, attn_implementation="eager",
            rope_parameters={"rope_type": "default", "rope_theta": config.rope_base},
        )
    ).eval()  # fmt: skip
    names = {"query": "self_attn.q_proj", "key": "self_attn.k_proj", "value": "self_attn.v_proj"}
    state = {"model.embed_tokens.weight": model.embedding.weight, "lm_head.weight": model.head.weight}
    for layer, block in enumerate(model.blocks):
        prefix = f"model.layers.{layer}"
        for ours, their in names.items():
            state[f"{prefix}.{their}.weight"] = getattr(block.attn, ours).weight
        state[f"{prefix}.self_attn.o_proj.weight"] = block.attn.proj.weight
        state[f"{prefix}.mlp.fc1.weight"] = block.mlp.fc.weight
        state[f"{prefix}.mlp.fc2.weight"] = block.mlp.proj.weight
    theirs.load_state_dict(state)
    ids, _ = batch(config)
    with torch.no_grad():
        logits = theirs(ids).logits
    assert logits.std() > 0.1
    torch.testing.assert_close(model(ids), logits, rtol=1e-5, atol=1e-5)


def test_padding_of_the_vocabulary_never_gets_probability():
    model = randomized(TINY)
    ids, targets = batch(TINY)
    assert model.head.weight.size(0) == 128 and model(ids).size(-1) == 70
    before = model(ids, targets)
    with torch.no_grad():
        model.head.weight[70:] = 100.0
    after = model(ids, targets)
    assert torch.equal(before, after)
    after.backward()
    assert model.head.weight.grad[70:].abs().max() == 0 and model.head.weight.grad[:70].abs().max() > 0


def test_the_same_seed_gives_the_same_weights_and_switches_leave_the_others_alone():
    first, again, other = (build_model(TINY, "cpu", seed).state_dict() for seed in (3, 3, 4))
    assert all(torch.equal(first[name], again[name]) for name in first)
    assert not torch.equal(first["embedding.weight"], other["embedding.weight"])
    assert not torch.equal(first["blocks.0.attn.query.weight"], first["blocks.1.attn.query.weight"])
    without = build_model(dataclasses.replace(TINY, smear=False, scalars=False), "cpu", 3).state_dict()
    assert len(without) < len(first)
    assert all(torch.equal(first[name], without[name]) for name in without)


def test_initial_values_are_nanochats():
    model = build_model(dataclasses.replace(TINY, n_embd=256, vocab_size=1000), "cpu", 0)
    assert model.embedding.weight.std().item() == pytest.approx(0.8, rel=0.02)
    assert model.head.weight.std().item() == pytest.approx(0.001, rel=0.02)
    assert model.value_embeddings["1"].weight.std().item() == pytest.approx(1 / 16, rel=0.02)
    for block in model.blocks:
        assert block.attn.query.weight.std().item() == pytest.approx(1 / 16, rel=0.02)
        assert block.mlp.fc.weight.std().item() == pytest.approx(0.4 / 16, rel=0.02)
        assert not block.attn.proj.weight.any() and not block.mlp.proj.weight.any()
    assert 0 < model.smear_gate.weight.max() <= 0.02 and model.smear_scale == 0
    torch.testing.assert_close(model.resid_scalars.data, torch.tensor([1.15, 1.15 - 0.1 / 3, 1.15 - 0.2 / 3, 1.05]))
    torch.testing.assert_close(model.x0_scalars.data, torch.tensor([0.2, 0.15, 0.1, 0.05]))
    ids, targets = batch(model.config)
    mean = model(ids, targets, reduction="none").sum() / (targets != IGNORE_INDEX).sum()
    assert mean.item() == pytest.approx(torch.tensor(1000.0).log().item(), abs=0.01)


def test_a_large_model_builds_on_meta_at_once():
    config = NanoChatConfig(vocab_size=2**17, sequence_len=8192, n_layer=64, n_head=64, n_kv_head=8, n_embd=8192)
    model = build_model(config, device="meta", seed=None)
    assert sum(parameter.numel() for parameter in model.parameters()) > 4e10
    assert all(tensor.is_meta for tensor in itertools.chain(model.parameters(), model.buffers()))


@pytest.mark.parametrize("switch", SWITCHES)
def test_every_parameter_has_one_role(switch):
    model = build_model(dataclasses.replace(TINY, **SWITCHES[switch]), "cpu", 0)
    roles = model.param_roles()
    assert list(roles) == [name for name, _ in model.named_parameters()]
    assert set(roles.values()) <= set(ROLES)
    for name, parameter in model.named_parameters():
        assert parameter.ndim == 2 or roles[name] != "matrix"
    assert roles["blocks.0.attn.query.weight"] == "matrix" and roles["head.weight"] == "unembedding"


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_low_precision_compute_stays_near_and_keeps_float32_masters(dtype):
    config = dataclasses.replace(TINY, compute_dtype=dtype)
    model, exact = randomized(config), randomized(TINY)
    exact.load_state_dict(model.state_dict())
    ids, targets = batch(config)
    loss, expected = model(ids, targets), exact(ids, targets)
    assert loss.dtype == torch.float32
    torch.testing.assert_close(loss, expected, rtol=1e-2, atol=0)
    loss.backward()
    expected.backward()
    assert model.head.weight.grad.dtype == torch.float32 and model.blocks[0].mlp.fc.weight.dtype == torch.float32
    assert model.embedding.weight.dtype == (torch.bfloat16 if dtype == "bfloat16" else torch.float32)
    ours = torch.cat([parameter.grad.float().flatten() for parameter in model.parameters() if parameter.ndim == 2])
    theirs = torch.cat([parameter.grad.flatten() for parameter in exact.parameters() if parameter.ndim == 2])
    assert (ours - theirs).norm() <= 0.1 * theirs.norm()


def test_compiled_model_equals_the_eager_one():
    config = dataclasses.replace(TINY, n_layer=2)
    eager, compiled = randomized(config), randomized(config)
    compiled.compile(fullgraph=True, backend="aot_eager")
    ids, targets = batch(config)
    eager(ids, targets).backward()
    compiled(ids, targets).backward()
    for ours, theirs in zip(compiled.parameters(), eager.parameters(), strict=True):
        torch.testing.assert_close(ours.grad, theirs.grad, rtol=1e-4, atol=1e-5)


def test_config_round_trips_through_plain_values():
    config = build_config("nanochat", TINY.as_dict())
    assert config == TINY and architecture_of(config) == "nanochat"
    before = {name: value for name, value in TINY.as_dict().items() if name not in ("position", "long_window")}
    assert build_config("nanochat", before) == TINY


def test_windows_come_from_the_trained_context():
    config = NanoChatConfig(vocab_size=9, sequence_len=2048, n_layer=6, n_head=1, n_kv_head=1, n_embd=8)
    assert config.windows == (512, 512, 512, 2047, 512, 2047)
    assert dataclasses.replace(config, sequence_len=2052).windows[0] == 640
    assert dataclasses.replace(config, short_window=100, window_pattern="S").windows == (100,) * 5 + (2047,)
    assert dataclasses.replace(config, long_window=8191).windows == (512, 512, 512, 8191, 512, 8191)


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({"n_embd": 30}, ["n_embd=30", "n_head=4", "24 or 32"]),
        ({"n_embd": 36}, ["heads of 9", "even", "32 or 40"]),
        ({"n_kv_head": 3}, ["n_kv_head=3", "1, 2, 4"]),
        ({"window_pattern": "SXL"}, ["'SXL'", "S (short", "L (full"]),
        ({"window_pattern": ""}, ["window_pattern", "'SSSL'"]),
        ({"n_layer": 0}, ["n_layer", "from 1 to"]),
        ({"softcap": -1.0}, ["softcap", "above 0"]),
        ({"position": "alibbi"}, ["position", "alibi"]),
        ({"position": "none", "rope_base": 5e5}, ["rope_base=500000", "position=rope", "position=none"]),
        ({"long_window": 22}, ["long_window=22", "23 tokens", "short windows"]),
        ({"compute_dtype": "int8"}, ["int8", "bfloat16"]),
        ({"windw_pattern": "L"}, ["windw_pattern", "did you mean 'window_pattern'"]),
    ],
)
def test_impossible_configs_name_the_nearest_legal_values(values, said):
    with pytest.raises(UserError) as error:
        build_config("nanochat", TINY.as_dict() | values)
    for words in said:
        assert words in str(error.value)


def test_unknown_architecture_and_missing_values_are_named():
    with pytest.raises(UserError, match="did you mean 'nanochat'"):
        build_config("nanochart", {})
    with pytest.raises(UserError, match="vocab_size"):
        build_config("nanochat", {"n_layer": 2})


@pytest.mark.parametrize("switch", SWITCHES)
def test_documents_in_a_row_are_as_each_by_itself(switch):
    config = dataclasses.replace(TINY, **SWITCHES[switch])
    model, lengths = randomized(config), (7, 1, 12, 4)
    ids, targets = batch(config)
    documents = torch.repeat_interleave(torch.tensor([3, 1, 2, 0]), torch.tensor(lengths)).expand_as(ids)
    model(ids, targets, documents=documents).backward()
    together = {name: parameter.grad for name, parameter in model.named_parameters()}
    logits = model(ids, documents=documents)

    model.zero_grad(set_to_none=False)
    for part, own in zip(ids.split(lengths, 1), targets.split(lengths, 1)):
        model(part, own).backward()
    for name, parameter in model.named_parameters():
        torch.testing.assert_close(together[name], parameter.grad, rtol=1e-4, atol=1e-5, msg=name)
    apart = torch.cat([model(part) for part in ids.split(lengths, 1)], dim=1)
    torch.testing.assert_close(logits, apart, rtol=1e-5, atol=1e-5)
