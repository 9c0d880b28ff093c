"""GPT-2 and Llama against transformers' own, and where learned positions end."""

import dataclasses
import json
import string
from typing import Any

import pytest
import torch

from nanochat_pl.checkpoint.hf_export import export_to_hf
from nanochat_pl.checkpoint.hf_formats import FORMATS
from nanochat_pl.checkpoint.model_folder import LoadedModel
from nanochat_pl.core.errors import UserError
from nanochat_pl.core.types import IGNORE_INDEX
from nanochat_pl.inference.engine import Engine
from nanochat_pl.inference.sampling import Sampling
from nanochat_pl.models.contract import ROLES, architecture_of, build_config, build_model
from nanochat_pl.models.cost import ModelCost
from nanochat_pl.models.execution import Execution
from nanochat_pl.models.gpt2 import GPT2Config, GPT2Spec
from nanochat_pl.models.llama import LlamaConfig, LlamaSpec
from nanochat_pl.nn.position import RotaryScaling
from nanochat_pl.tokenizers.char import CharTokenizer
from tests.models.test_nanochat import batch, randomized

transformers = pytest.importorskip("transformers")

CHARACTERS = CharTokenizer("".join(sorted(string.ascii_letters + "12345678 ")))
TINY = GPT2Config(vocab_size=70, sequence_len=80, n_layer=3, n_head=4, n_kv_head=4, n_embd=32)
SCALING = RotaryScaling(factor=4.0, low_freq_factor=1.0, high_freq_factor=4.0, original_sequence_len=32)
LLAMA = LlamaConfig(
    vocab_size=70, sequence_len=80, n_layer=3, n_head=4, n_kv_head=2, n_embd=32, intermediate_size=72, rope_base=100.0,
    rope_scaling=SCALING,
)  # fmt: skip
CONFIGS = {
    "gpt2": TINY,
    "llama": LLAMA,
    "llama, one table": dataclasses.replace(LLAMA, tied=True, rope_scaling=RotaryScaling.linear(3.0), n_kv_head=4),
}


@pytest.fixture(scope="module", params=CONFIGS)
def both(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[Any, Any]:
    """Our model, and the same as transformers loads what was exported of it."""
    folder = tmp_path_factory.mktemp("hf")
    loaded = LoadedModel(randomized(CONFIGS[request.param]).eval(), CHARACTERS, {}, "base")
    assert export_to_hf(loaded, "runs/test", folder).modeling_file is None
    return loaded.model, transformers.AutoModelForCausalLM.from_pretrained(folder)


def test_logits_loss_and_gradients_equal_transformers(both: tuple[Any, Any]) -> None:
    ours, theirs = both
    assert type(theirs).__name__ == {"GPT2": "GPT2LMHeadModel", "Llama": "LlamaForCausalLM"}[type(ours).__name__]
    ids, targets = batch(ours.config)
    ids[ids == theirs.config.pad_token_id] = 1  # transformers gives what pads no gradient
    logits = ours(ids)
    assert logits.std() > 0.5
    expected = theirs(ids).logits
    torch.testing.assert_close(logits, expected, rtol=0, atol=1e-4)
    loss = ours(ids, targets) / (targets != IGNORE_INDEX).sum()
    their_loss = torch.nn.functional.cross_entropy(expected.flatten(0, 1), targets.flatten())
    torch.testing.assert_close(loss, their_loss)
    loss.backward()
    their_loss.backward()
    (hub_format,) = FORMATS[architecture_of(ours.config)]
    gradients = hub_format.weights.export({name: p.grad for name, p in ours.named_parameters()})
    expected = {name: p.grad for name, p in theirs.named_parameters()}
    assert gradients.keys() == expected.keys()
    for name, gradient in expected.items():
        own = gradients[name][: len(gradient)]  # without the vocabulary's padding
        assert gradient.abs().max() > 1e-4
        torch.testing.assert_close(own, gradient, rtol=1e-4, atol=1e-5, msg=lambda m, n=name: f"{n}: {m}")


def test_greedy_answers_equal_transformers(both: tuple[Any, Any]) -> None:
    ours, theirs = both
    prompts = [[61, 5, 9, 33], [61, 2, 3, 40, 41, 42, 43, 44, 45, 1, 60, 7], [3]]
    longest = ours.config.sequence_len
    answers = Engine(ours).generate(prompts, Sampling(max_new_tokens=longest - 12, temperature=0.0))
    theirs.generation_config.eos_token_id = None
    for prompt, answer in zip(prompts, answers, strict=True):
        expected = theirs.generate(torch.tensor([prompt]), max_new_tokens=longest - 12, do_sample=False)[0].tolist()
        assert prompt + answer == expected
        assert len(set(expected)) > 5


def test_where_learned_positions_end_an_answer_does() -> None:
    model = randomized(TINY).eval()
    (answer,) = Engine(model).generate([[61, 5, 9, 33]], Sampling(max_new_tokens=1000, temperature=0.0))
    assert len(answer) == TINY.sequence_len - 4 + 1  # the last token needs no position of its own
    with pytest.raises(UserError, match=r"81 tokens.*positions of 80"):
        Engine(model).submit([1] * 81, Sampling(max_new_tokens=1))
    with pytest.raises(UserError, match=r"100 tokens.*positions of 80"):
        model(torch.zeros(1, 100, dtype=torch.int64))
    llama = Engine(randomized(LLAMA).eval())
    (answer,) = llama.generate([[61, 5, 9, 33]], Sampling(max_new_tokens=100, temperature=0.0))
    assert len(answer) == 100


@torch.no_grad()
def test_the_cache_beyond_the_positions_is_refused() -> None:
    ours = randomized(TINY).eval()
    ids = torch.arange(70).expand(2, 70)
    cache = ours.build_cache(2, 90)
    pieces = [ours(ids[:, start:end], cache=cache) for start, end in ((0, 30), (30, 31), (31, 70))]
    torch.testing.assert_close(torch.cat(pieces, dim=1), ours(ids), rtol=0, atol=1e-4)
    with pytest.raises(UserError, match="81 tokens"):
        ours(ids[:, :11], cache=cache)


@torch.no_grad()
def test_learned_positions_begin_anew_with_each_document_where_they_are_told_apart() -> None:
    ours = randomized(TINY).eval()
    ids = torch.randint(70, (2, 80), generator=torch.Generator().manual_seed(1))
    lengths = [[13, 30, 37], [50, 1, 29]]
    documents = torch.stack([torch.arange(3).repeat_interleave(torch.tensor(row)) for row in lengths])
    packed = ours(ids, documents=documents)
    for row, parts in enumerate(lengths):
        alone = [ours(part[None])[0] for part in ids[row].split(parts)]
        torch.testing.assert_close(packed[row], torch.cat(alone), rtol=0, atol=1e-4)
    assert (ours(ids) - packed)[0, 20:].abs().max() > 0.1


def test_published_sizes_roles_and_initial_values() -> None:
    millions = {"small": 124.4, "medium": 354.8, "large": 774.0, "xl": 1557.6}
    for size, expected in millions.items():
        config = GPT2Spec(size=size, depth=99, n_embd=99, head_dim=9).config(50257)
        cost = ModelCost(config)
        padding = (config.padded_vocab_size - config.vocab_size) * config.n_embd
        assert round((cost.parameters - padding) / 1e6, 1) == expected
        assert config.head_dim == 64 and config.sequence_len == 1024
    tiny_llama = LlamaSpec(size="tinyllama", depth=3).config(32000)
    assert ModelCost(tiny_llama).parameters == 1_100_048_384  # as TinyLlama's model card counts them
    assert ModelCost(TINY).scaling_parameters == 3 * 12 * 32**2 + 128 * 32
    model = build_model(TINY, "cpu", seed=0)
    assert set(model.param_roles().values()) == {"matrix", "unembedding", "vector"} < set(ROLES)
    tables = [name for name, p in model.named_parameters() if p.ndim == 2 and model.param_roles()[name] != "matrix"]
    assert tables == ["embedding.weight", "position.weight"] and model.vocabulary_tables() == ["embedding.weight"]
    assert model.blocks[0].mlp.fc.weight.std().item() == pytest.approx(0.02, rel=0.1)
    assert model.blocks[0].mlp.proj.weight.std().item() == pytest.approx(0.02 / 6**0.5, rel=0.1)
    for config in (TINY, LLAMA):
        assert build_config(architecture_of(config), json.loads(json.dumps(config.as_dict()))) == config


def test_dropout_is_drawn_in_training_alone_and_is_the_same_in_a_recomputation() -> None:
    config = dataclasses.replace(TINY, dropout=0.3)
    gradients = []
    for recompute in (False, True):
        model = build_model(config, "cpu", 0, Execution(recompute=recompute))
        ids, targets = batch(config)
        assert torch.equal(model.eval()(ids), model(ids)) and not torch.equal(model.train()(ids), model(ids))
        torch.manual_seed(7)
        model(ids, targets).backward()
        gradients.append(model.blocks[0].mlp.fc.weight.grad)
    assert gradients[0].abs().max() > 0
    torch.testing.assert_close(*gradients)
