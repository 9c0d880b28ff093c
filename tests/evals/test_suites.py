"""Suites on real tasks: which questions, the same scores from several processes as from one, the figures."""

import math
from pathlib import Path

import pytest
import torch

from nanochat_pl.core.errors import UserError
from nanochat_pl.core.types import IGNORE_INDEX, StepBatch
from nanochat_pl.evals import suites
from nanochat_pl.evals.answers import score_task
from nanochat_pl.evals.bits_per_byte import BitsPerByte
from nanochat_pl.evals.scores import SuiteScore, TaskScore
from nanochat_pl.evals.suites import CHAT_TASKS, TINY_TASKS, build_suites, measure_bits_per_byte
from nanochat_pl.models.config import NanoChatConfig
from nanochat_pl.tasks.specs import TaskSpec
from nanochat_pl.tasks.task import ChoiceTask
from nanochat_pl.tokenizers.byte import ByteTokenizer
from nanochat_pl.tokenizers.chat import render_for_completion
from tests.models.test_nanochat import randomized

TOKENIZER = ByteTokenizer()


@pytest.fixture(scope="module")
def model() -> torch.nn.Module:
    config = NanoChatConfig(
        vocab_size=TOKENIZER.vocab_size, sequence_len=640, n_layer=2, n_head=2, n_kv_head=1, n_embd=32,
        window_pattern="SL",
    )  # fmt: skip
    return randomized(config).eval()


@pytest.fixture(autouse=True)
def short_answers(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(suites, "MAX_NEW_TOKENS", 8)


def ignored(label: str, share: float) -> None:
    """Nobody watches."""


def test_every_suite_has_its_tasks_and_its_figure(model: torch.nn.Module, test_data: Path) -> None:
    built = build_suites(
        ("chat", "tiny", "tasks=gsm8k,tiny_sums", "chat"), max_per_task=2, tasks_path=str(test_data / "hub")
    )
    assert [suite.name for suite in built] == ["chat", "tiny", "gsm8k", "tiny_sums"]
    told: list[float] = []
    counted = [list(suite.count(model, TOKENIZER, lambda label, share: told.append(share))) for suite in built]
    scores = [suite.score(tasks) for suite, tasks in zip(built, counted)]
    for score, labels in zip(scores, (CHAT_TASKS, TINY_TASKS, ("gsm8k",), ("tiny_sums",))):
        assert tuple(task.label for task in score.tasks) == labels
        assert all(task.count == 2 for task in score.tasks)
    chat = scores[0]
    assert chat.metric == "ChatCORE"
    assert [task.baseline for task in chat.tasks] == [0.25, 0.25, 0.25, 0.0, 0.0, 0.0]
    assert chat.value == pytest.approx(sum(task.centered for task in chat.tasks) / 6)
    assert len(chat.metrics()) == 8 and list(scores[3].metrics()) == ["eval/tiny_sums", "eval/tiny_sums/standard_error"]
    assert told[11] == 1.0 and told == sorted(told[:12]) + sorted(told[12:22]) + told[22:]


def test_what_processes_count_adds_up_to_what_one_counts(model: torch.nn.Module, test_data: Path) -> None:
    (suite,) = build_suites(["tasks=arc_easy"], max_per_task=11, tasks_path=str(test_data / "hub"))
    check_processes(suite, model)


@pytest.mark.slow
def test_what_processes_count_of_core_adds_up_too(model: torch.nn.Module, test_data: Path) -> None:
    (suite,) = build_suites(["core"], max_per_task=11, bundle=str(test_data / "eval_bundle"))
    score = check_processes(suite, model)
    assert score.metric == "CORE of 18 tasks" and len(score.tasks) == 18
    assert score.value == pytest.approx(sum(task.centered for task in score.tasks) / 18)
    assert suite.score([*score.tasks, *score.tasks[:4]]).metric == "CORE"


def check_processes(suite: suites.Suite, model: torch.nn.Module) -> SuiteScore:
    alone = list(suite.count(model, TOKENIZER, ignored))
    parts = [list(suite.count(model, TOKENIZER, ignored, rank, 3)) for rank in range(3)]
    assert sum(whole.correct for whole in alone) > 0
    for n, whole in enumerate(alone):
        assert whole.correct == sum(part[n].correct for part in parts)
        assert whole.count == sum(part[n].count for part in parts) == 11
    return suite.score(alone)


def test_scores_are_centred_on_guessing() -> None:
    tasks = (TaskScore("a", 30, 40, 0.5), TaskScore("b", 10, 40, 0.25), TaskScore("c", 4, 40, 0.0))
    assert [task.centered for task in tasks] == pytest.approx([0.5, 0.0, 0.1])
    assert [task.centered_standard_error / task.standard_error for task in tasks] == pytest.approx([2, 4 / 3, 1])
    assert SuiteScore.mean("core", "CORE", tasks, centered=True).value == pytest.approx(0.2)
    assert SuiteScore.mean("core", "CORE", tasks, centered=False).value == pytest.approx(44 / 120)


def test_standard_errors() -> None:
    """Two of them cover the true share about as often as they should, also where it is near 0 or 1."""
    for n, p in ((100, 0.98), (40, 0.5), (12, 0.95)):
        scores = [TaskScore("a", k, n, 0.0) for k in range(n + 1)]
        chances = [math.comb(n, k) * p**k * (1 - p) ** (n - k) for k in range(n + 1)]
        middle = [(score.correct + 2) / (n + 4) for score in scores]
        covered = sum(
            chance for chance, score, at in zip(chances, scores, middle) if abs(at - p) <= 2 * score.standard_error
        )
        assert 0.94 < covered <= 1, (n, p, covered)
    assert TaskScore("a", 8, 8, 0.0).standard_error == pytest.approx(TaskScore("a", 0, 8, 0.0).standard_error)
    assert TaskScore("a", 8, 8, 0.0).standard_error > 0.1
    assert TaskScore("a", 5_000, 10_000, 0.0).standard_error == pytest.approx(0.005, rel=1e-3)
    pair = [TaskScore("a", 50, 100, 0.0), TaskScore("b", 100, 100, 0.0)]
    errors = [task.standard_error for task in pair]
    assert SuiteScore.mean("s", "m", pair, centered=False).standard_error == pytest.approx(math.hypot(*errors) / 2)


def test_questions_that_do_not_fit_are_not_answered(test_data: Path, caplog: pytest.LogCaptureFixture) -> None:
    config = NanoChatConfig(
        vocab_size=TOKENIZER.vocab_size, sequence_len=64, n_layer=1, n_head=2, n_kv_head=2, n_embd=32
    )
    built = build_suites(["tasks=gsm8k,mmlu"], max_per_task=3, tasks_path=str(test_data / "hub"))
    gsm8k, mmlu = (next(suite.count(randomized(config).eval(), TOKENIZER, ignored)) for suite in built)
    assert (gsm8k.correct, gsm8k.count) == (0, 3) and "3 of 3 questions of gsm8k can't be asked" in caplog.text
    assert mmlu.count == 3 and "mmlu" not in caplog.text, "choices are read whole"


def test_bits_per_byte_are_those_of_validation(model: torch.nn.Module) -> None:
    generator = torch.Generator().manual_seed(0)
    ids = torch.randint(0, 256, (6, 33), generator=generator)
    targets = ids[:, 1:].clone()
    targets[5] = IGNORE_INDEX
    targets[2, 10:] = IGNORE_INDEX
    sizes = torch.from_numpy(TOKENIZER.token_bytes()).long()
    batches = [StepBatch(ids[n : n + 3, :-1], targets[n : n + 3], None, None) for n in (0, 3)]
    score = measure_bits_per_byte(model, sizes, batches, None, ignored)
    metric = BitsPerByte(sizes)
    with torch.no_grad():
        losses = model.forward(ids[:, :-1], targets, reduction="none")
    metric.update(losses, targets)
    assert score.value == pytest.approx(metric.compute()[0].item(), rel=1e-5)
    per_row = [(losses[n].sum().item(), (targets[n] >= 0).sum().item()) for n in range(5)]
    draws = torch.randint(0, 5, (20_000, 5), generator=generator)
    nats, counts = torch.tensor(per_row).T
    bootstrap = (nats[draws].sum(1) / counts[draws].sum(1) / math.log(2)).std().item()
    assert score.standard_error == pytest.approx(bootstrap * math.sqrt(5 / 4), rel=0.15)
    assert score.metrics() == {"eval/bpb": score.value, "eval/bpb/standard_error": score.standard_error}
    nothing = StepBatch(ids[:, :-1], torch.full_like(targets, IGNORE_INDEX), None, None)
    for rows in ([], [nothing]):
        with pytest.raises(UserError, match="no held-out text"):
            measure_bits_per_byte(model, sizes, rows, None, ignored)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("cor", "did you mean 'core'"),
        ("gsm8k", "a task of this name: tasks=gsm8k"),
        ("bpb", "no suite 'bpb'"),
        ("tasks=gsm9k", "did you mean 'gsm8k'"),
        ("tasks=smoltalk", "no right answers"),
        ("tasks=", "names no task"),
    ],
)
def test_what_is_no_suite(name: str, message: str) -> None:
    with pytest.raises(UserError, match=message):
        build_suites([name])


def test_what_is_missing_is_said_before_anything_is_computed(
    tmp_path: Path,
) -> None:
    core, gsm8k = build_suites(["core", "tasks=gsm8k"], bundle=str(tmp_path), tasks_path=str(tmp_path / "nowhere"))
    with pytest.raises(UserError, match="holds no CORE tasks"):
        core.prepare()
    with pytest.raises(UserError, match="There is no folder"):
        gsm8k.prepare()


def test_a_choice_is_the_likeliest_of_its_letters(model: torch.nn.Module, test_data: Path) -> None:
    task = TaskSpec("arc_challenge", split="test", stop=40, path=str(test_data / "hub")).build()
    assert isinstance(task, ChoiceTask)
    found: dict[int, bool] = {}
    score = score_task(model, TOKENIZER, task, range(40), on_example=found.__setitem__)
    for i in range(40):
        with torch.no_grad():
            logits = model.forward(torch.tensor([render_for_completion(TOKENIZER, task.prompt(i))]))[0, -1]
        likeliest = max(task.letters(i), key=lambda letter: logits[TOKENIZER.encode(letter)[0]].item())
        assert found[i] == (likeliest == task.answer(i))
    assert score.correct == sum(found.values()) > 0
