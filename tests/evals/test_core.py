"""CORE on real tasks: the same answers as the plain way, example by example, in fewer passes; scores and errors."""

import functools
import json
import math

import pytest
import torch

from nanochat_pl.core.errors import UserError
from nanochat_pl.evals.core import CoreScore, TaskScore, answer_task, evaluate_core
from nanochat_pl.evals.core_bundle import load_core_tasks
from nanochat_pl.evals.core_prompts import build_questions
from nanochat_pl.evals.core_scoring import score_tokens
from nanochat_pl.models.config import NanoChatConfig
from nanochat_pl.tokenizers.bpe import train_bpe
from tests.evals.core_reference import plain_answer
from tests.models.test_nanochat import randomized

CPU = torch.device("cpu")
TASKS = ("copa", "winograd", "arc_easy", "bigbench_cs_algorithms", "lambada_openai")


@pytest.fixture
def bundle(test_data):
    return test_data / "eval_bundle"


@pytest.fixture
def tokenizer(bundle):
    return tokenizer_of(bundle)


@functools.cache
def tokenizer_of(bundle):
    return train_bpe([path.read_text(encoding="utf-8") for path in sorted(bundle.rglob("*.jsonl"))], 2000)


@pytest.fixture
def model(tokenizer):
    """Narrow, so that long prompts cost little; shorter windows than the prompts, shared key heads."""
    config = NanoChatConfig(
        vocab_size=tokenizer.vocab_size,
        sequence_len=1024,
        n_layer=3,
        n_head=4,
        n_kv_head=2,
        n_embd=16,
        window_pattern="SL",
        short_window=100,
    )
    return randomized(config).eval()


@pytest.mark.parametrize("max_tokens", [None, 90])
@pytest.mark.parametrize("label", TASKS)
def test_the_answers_are_those_of_the_plain_way(model, tokenizer, bundle, label, max_tokens):
    (task,) = (task for task in load_core_tasks(bundle) if task.label == label)
    examples = task.examples()
    indices = range(0, len(examples), 5)
    with torch.no_grad():
        plain = [plain_answer(model, tokenizer, task, examples, index, max_tokens) for index in indices]
    questions = build_questions(task, examples, indices, tokenizer, max_tokens)
    with torch.no_grad():
        scores = score_tokens(model, questions, CPU)
    for expected, found in zip(plain, scores, strict=True):
        for a, b in zip(expected.scores, found, strict=True):
            torch.testing.assert_close(b, a, rtol=1e-4, atol=1e-4)
    right = answer_task(model, tokenizer, task, examples, indices, max_tokens)
    assert right == [answer.right for answer in plain]
    if task.kind != "language_modeling":
        assert any(right)


@pytest.mark.slow
def test_every_answer_on_the_whole_bundle_is_that_of_the_plain_way(model, tokenizer, bundle):
    kinds = set()
    for task in load_core_tasks(bundle):
        examples = task.examples(max_per_task=12)
        with torch.no_grad():
            plain = [plain_answer(model, tokenizer, task, examples, i).right for i in range(len(examples))]
        assert answer_task(model, tokenizer, task, examples, range(len(examples))) == plain, task.label
        kinds.add(task.kind)
    assert len(kinds) == 3


def test_what_ranks_count_adds_up_to_what_one_process_counts(model, tokenizer, bundle):
    def counts_of(rank, world_size, others=0):
        found = []

        def add(counts):
            found.append(counts.clone())
            return counts + others

        limits = {"max_per_task": 11, "max_tokens": 64}
        score = evaluate_core(model, tokenizer, bundle, **limits, rank=rank, world_size=world_size, sum_over_ranks=add)
        return found[0], score

    second, _ = counts_of(1, 2)
    first, together = counts_of(0, 2, others=second)
    alone, score = counts_of(0, 1)
    assert torch.equal(first + second, alone) and together == score
    assert (first[:, 1] == 6).all() and (second[:, 1] == 5).all() and alone[:, 0].sum() > 20
    assert json.loads(json.dumps(score.as_dict()))["tasks"][0]["count"] == 11


@pytest.mark.parametrize("limit", [{"max_per_task": 0}, {"max_tokens": 1}, {"max_per_task": 5}])
def test_limits_that_leave_nothing(model, tokenizer, bundle, limit):
    with pytest.raises(UserError, match="at least"):
        evaluate_core(model, tokenizer, bundle, **limit)


def test_scores_are_centred_on_guessing():
    tasks = (TaskScore("a", 30, 40, 0.5), TaskScore("b", 10, 40, 0.25), TaskScore("c", 4, 40, 0.0))
    assert [task.centered for task in tasks] == pytest.approx([0.5, 0.0, 0.1])
    core = CoreScore(tasks)
    assert core.core == pytest.approx(0.2)
    errors = (math.sqrt(0.75 * 0.25 / 40) / 0.5, math.sqrt(0.25 * 0.75 / 40) / 0.75, math.sqrt(0.1 * 0.9 / 40))
    assert core.standard_error == pytest.approx(math.sqrt(sum(e * e for e in errors)) / 3)
