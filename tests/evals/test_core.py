"""CORE on real tasks: the same answers as the plain way, example by example, in fewer passes."""

import functools

import pytest
import torch

from nanochat_pl.evals.core import answer_task
from nanochat_pl.evals.core_bundle import load_core_tasks
from nanochat_pl.evals.core_prompts import build_questions
from nanochat_pl.evals.core_scoring import score_tokens
from nanochat_pl.models.config import NanoChatConfig
from nanochat_pl.models.gpt2 import GPT2Config
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


@pytest.mark.parametrize("label", TASKS)
def test_the_answers_are_those_of_the_plain_way(model, tokenizer, bundle, label):
    (task,) = (task for task in load_core_tasks(bundle) if task.label == label)
    examples = task.examples()
    indices = range(0, len(examples), 5)
    with torch.no_grad():
        plain = [plain_answer(model, tokenizer, task, examples, index) for index in indices]
    questions = build_questions(task, examples, indices, tokenizer)
    with torch.no_grad():
        scores = score_tokens(model, questions, CPU)
    for expected, found in zip(plain, scores, strict=True):
        for a, b in zip(expected.scores, found, strict=True):
            torch.testing.assert_close(b, a, rtol=1e-4, atol=1e-4)
    right = answer_task(model, tokenizer, task, examples, indices)
    assert right == [answer.right for answer in plain]
    if task.kind != "language_modeling":
        assert any(right)


def test_prompts_longer_than_learned_positions_lose_their_beginnings(tokenizer, bundle):
    config = GPT2Config(tokenizer.vocab_size, sequence_len=100, n_layer=2, n_head=2, n_kv_head=2, n_embd=16)
    model, indices = randomized(config).eval(), range(0, 12, 4)
    (task,) = (task for task in load_core_tasks(bundle) if task.label == "arc_easy")
    questions = build_questions(task, task.examples(), indices, tokenizer)
    assert max(len(row) for question in questions for row in question.rows) > 200
    expected = []
    for question in questions:
        losses = []
        for row, (start, end) in zip(question.rows, question.spans):
            ids = torch.from_numpy(row[-100:])
            scored = torch.nn.functional.cross_entropy(model(ids[None, :-1])[0], ids[1:], reduction="none")
            losses.append(scored[-(end - start) :].mean())
        expected.append(int(torch.stack(losses).argmin()) == question.gold)
    assert answer_task(model, tokenizer, task, task.examples(), indices) == expected


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
