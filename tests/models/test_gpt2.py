"""GPT-2 against transformers' own, and where its positions end."""

import dataclasses
import string
from typing import Any

import pytest
import torch

from nanochat_pl.checkpoint.hf_export import export_to_hf
from nanochat_pl.checkpoint.model_folder import LoadedModel
from nanochat_pl.core.errors import UserError
from nanochat_pl.core.types import IGNORE_INDEX
from nanochat_pl.inference.engine import Engine
from nanochat_pl.inference.sampling import Sampling
from nanochat_pl.models.contract import ROLES, architecture_of, build_config, build_model
from nanochat_pl.models.cost import ModelCost
from nanochat_pl.models.execution import Execution
from nanochat_pl.models.gpt2 import GPT2Config, GPT2Spec
from nanochat_pl.tokenizers.char import CharTokenizer
from tests.models.test_nanochat import batch, randomized

transformers = pytest.importorskip("transformers")

CHARACTERS = CharTokenizer("".join(sorted(string.ascii_letters + "12345678 ")))
TINY = GPT2Config(vocab_size=70, sequence_len=80, n_layer=3, n_head=4, n_kv_head=4, n_embd=32)


@pytest.fixture(scope="module")
def both(tmp_path_factory: pytest.TempPathFactory) -> tuple[Any, Any]:
    """Our model, and the same as transformers loads what was exported of it."""
    folder = tmp_path_factory.mktemp("hf")
    loaded = LoadedModel(randomized(TINY).eval(), CHARACTERS, {}, "base")
    assert export_to_hf(loaded, "runs/test", folder).modeling_file is None
    return loaded.model, transformers.AutoModelForCausalLM.from_pretrained(folder)


def test_logits_loss_and_gradients_equal_transformers(both: tuple[Any, Any]) -> None:
    ours, theirs = both
    assert type(theirs).__name__ == "GPT2LMHeadModel"
    ids, targets = batch(TINY)
    logits = ours(ids)
    assert logits.std() > 0.5
    expected = theirs(ids).logits
    torch.testing.assert_close(logits, expected, rtol=0, atol=1e-4)
    mean = 1 / (targets != IGNORE_INDEX).sum()
    loss = ours(ids, targets) * mean
    torch.testing.assert_close(loss, torch.nn.functional.cross_entropy(expected.flatten(0, 1), targets.flatten()))
    loss.backward()
    torch.nn.functional.cross_entropy(theirs(ids).logits.flatten(0, 1), targets.flatten()).backward()
    block, their_block = ours.blocks[1], theirs.transformer.h[1]
    attention = torch.cat([part.weight.grad for part in (block.attn.query, block.attn.key, block.attn.value)])
    for gradient, their_gradient in (
        (ours.embedding.weight.grad[: TINY.vocab_size], theirs.transformer.wte.weight.grad),
        (ours.position.weight.grad, theirs.transformer.wpe.weight.grad),
        (attention, their_block.attn.c_attn.weight.grad.t()),
        (block.attn.proj.bias.grad, their_block.attn.c_proj.bias.grad),
        (block.mlp.fc.weight.grad, their_block.mlp.c_fc.weight.grad.t()),
        (ours.norm.weight.grad, theirs.transformer.ln_f.weight.grad),
    ):
        torch.testing.assert_close(gradient, their_gradient, rtol=1e-4, atol=1e-5)


def test_greedy_answers_equal_transformers_to_the_end_of_the_positions(both: tuple[Any, Any]) -> None:
    ours, theirs = both
    prompts = [[61, 5, 9, 33], [61, 2, 3, 40, 41, 42, 43, 44, 45, 1, 60, 7], [3]]
    answers = Engine(ours).generate(prompts, Sampling(max_new_tokens=1000, temperature=0.0))
    theirs.generation_config.eos_token_id = None
    for prompt, answer in zip(prompts, answers, strict=True):
        # The last token needs no position of its own; transformers stops one before.
        expected = theirs.generate(torch.tensor([prompt]), max_length=TINY.sequence_len, do_sample=False)[0].tolist()
        assert prompt + answer[:-1] == expected
        assert len(set(expected)) > 5
    with pytest.raises(UserError, match=r"81 tokens.*positions of 80"):
        Engine(ours).submit([1] * 81, Sampling(max_new_tokens=1))
    for ids in (torch.zeros(1, 81, dtype=torch.int64), torch.zeros(1, 100, dtype=torch.int64)):
        with pytest.raises(UserError, match=f"{ids.size(1)} tokens.*positions of 80"):
            ours(ids)


@torch.no_grad()
def test_the_cache_beyond_the_positions_is_refused(both: tuple[Any, Any]) -> None:
    ours, _ = both
    ids = torch.arange(70).expand(2, 70)
    cache = ours.build_cache(2, 90)
    pieces = [ours(ids[:, start:end], cache=cache) for start, end in ((0, 30), (30, 31), (31, 70))]
    torch.testing.assert_close(torch.cat(pieces, dim=1), ours(ids), rtol=0, atol=1e-4)
    with pytest.raises(UserError, match="81 tokens"):
        ours(ids[:, :11], cache=cache)


def test_published_sizes_roles_and_initial_values() -> None:
    millions = {"small": 124.4, "medium": 354.8, "large": 774.0, "xl": 1557.6}
    for size, expected in millions.items():
        config = GPT2Spec(size=size, depth=99, n_embd=99, head_dim=9).config(50257)
        cost = ModelCost(config)
        padding = (config.padded_vocab_size - config.vocab_size) * config.n_embd
        assert round((cost.parameters - padding) / 1e6, 1) == expected
        assert config.head_dim == 64 and config.sequence_len == 1024
    assert ModelCost(TINY).scaling_parameters == 3 * 12 * 32**2 + 128 * 32
    model = build_model(TINY, "cpu", seed=0)
    assert set(model.param_roles().values()) == {"matrix", "unembedding", "vector"} < set(ROLES)
    tables = [name for name, p in model.named_parameters() if p.ndim == 2 and model.param_roles()[name] != "matrix"]
    assert tables == ["embedding.weight", "position.weight"] and model.vocabulary_tables() == ["embedding.weight"]
    assert model.blocks[0].mlp.fc.weight.std().item() == pytest.approx(0.02, rel=0.1)
    assert model.blocks[0].mlp.proj.weight.std().item() == pytest.approx(0.02 / 6**0.5, rel=0.1)
    assert build_config(architecture_of(TINY), TINY.as_dict()) == TINY


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
