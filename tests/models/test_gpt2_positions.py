"""GPT-2 with ALiBi, or with no positions, against transformers' GPT-2 given the T x T bias as its mask."""

import dataclasses
from pathlib import Path

import pytest
import torch

from nanochat_pl.checkpoint.hf_export import export_to_hf
from nanochat_pl.checkpoint.model_folder import LoadedModel
from nanochat_pl.core.errors import UserError
from nanochat_pl.inference.generate import generate
from nanochat_pl.models.contract import build_model
from nanochat_pl.models.gpt2 import GPT2Config
from tests.inference.test_generate import PROMPTS, greedy, greedy_from_scratch
from tests.models.test_nanochat import batch, randomized
from tests.models.test_published import CHARACTERS
from tests.reference.plain_gpt import slopes_of

transformers = pytest.importorskip("transformers")

T = 24
ALIBI = GPT2Config(vocab_size=70, sequence_len=T, n_layer=2, n_head=6, n_kv_head=6, n_embd=36, position="alibi")


@pytest.mark.parametrize("position", ["alibi", "none"])
def test_logits_and_gradients_equal_transformers_with_a_bias(position: str, tmp_path: Path) -> None:
    config = dataclasses.replace(ALIBI, position=position)
    ours = randomized(config)
    learned = build_model(dataclasses.replace(config, position="learned"), "cpu", 0)
    learned.load_state_dict(ours.state_dict() | {"position.weight": torch.zeros(T, 36)})
    export_to_hf(LoadedModel(learned.eval(), CHARACTERS, {}, "base"), "runs/test", tmp_path)
    theirs = transformers.AutoModelForCausalLM.from_pretrained(tmp_path)

    places = torch.arange(T)
    slopes = torch.tensor(slopes_of(6) if position == "alibi" else [0.0] * 6)
    bias = -slopes[:, None, None] * (places[:, None] - places) + torch.full((T, T), -torch.inf).triu(1)
    ids, _ = batch(config)
    logits, expected = ours(ids), theirs(ids, attention_mask=bias.expand(2, 6, T, T)).logits
    torch.testing.assert_close(logits, expected, rtol=0, atol=1e-4)
    logits.square().mean().backward()
    expected.square().mean().backward()
    gradient = theirs.transformer.wte.weight.grad
    torch.testing.assert_close(ours.embedding.weight.grad[: len(gradient)], gradient, rtol=1e-4, atol=1e-5)
    learned.position.weight.data.normal_()
    assert (learned(ids) - logits).abs().max() > 0.1


@pytest.mark.parametrize(
    "further", [{"position": "alibi"}, {"position": "alibi", "long_window": 60}, {"position": "none"}]
)
def test_the_engine_goes_beyond_the_trained_context(further: dict) -> None:
    model = randomized(dataclasses.replace(ALIBI, **further)).eval()
    assert generate(model, PROMPTS, greedy(2 * T)) == [greedy_from_scratch(model, prompt, 2 * T) for prompt in PROMPTS]


def test_learned_positions_see_no_further_than_they_go() -> None:
    with pytest.raises(UserError, match=r"long_window=60.*position=learned.*alibi"):
        dataclasses.replace(ALIBI, position="learned", long_window=60)
