"""The tasks that are made on the spot: true, short, learnable forms, and nothing held out in training."""

import random
import re
from pathlib import Path

import pytest

from nanochat_pl.core.errors import UserError
from nanochat_pl.tasks.generated import calls_tool
from nanochat_pl.tasks.specs import TASKS, TaskSpec
from nanochat_pl.tasks.spelling import SimpleSpelling, SpellingBee, TinyLetters
from nanochat_pl.tasks.task import Task, text_said
from nanochat_pl.tasks.tiny_facts import TinyFacts
from nanochat_pl.tasks.tiny_math import TinyMath
from nanochat_pl.tasks.tiny_stories import TinyStories
from nanochat_pl.tasks.tiny_sums import TinySums
from nanochat_pl.tiny_world import document
from nanochat_pl.tokenizers.base import Tokenizer
from nanochat_pl.tokenizers.bpe import train_bpe
from nanochat_pl.tokenizers.chat import render_conversation
from nanochat_pl.tools.calculator import evaluate

TINY = ("tiny_facts", "tiny_stories", "tiny_sums", "tiny_letters", "tiny_math")
GENERATED = (*TINY, "spelling_bee", "simple_spelling")


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    return train_bpe((document(i) for i in range(1000)), 1024, None)


def sample(task: Task, n: int = 300) -> list[int]:
    return random.Random(0).sample(range(len(task)), min(n, len(task)))


@pytest.mark.parametrize("name", GENERATED)
def test_held_out_questions_are_not_in_training(name: str) -> None:
    train, test = (TaskSpec(name, split).build() for split in ("train", "test"))
    learned = {train.prompt(i)[0]["content"] for i in sample(train, 3000)}
    asked = {test.prompt(i)[0]["content"] for i in sample(test)}
    assert len(learned) > 500 and len(asked) > 50
    assert not learned & asked
    again = TaskSpec(name).build()
    assert all(again.conversation(i) == train.conversation(i) for i in sample(train, 20))
    with pytest.raises(UserError, match=f"{name} has no split 'tset'; did you mean 'test'"):
        TaskSpec(name, "tset").build()


@pytest.mark.parametrize("name", GENERATED)
def test_the_right_answer_is_right_and_others_are_not(name: str) -> None:
    task = TaskSpec(name, "test").build()
    task.check_scored()
    answers = [task.conversation(i)[-1]["content"] for i in sample(task, 100)]
    for i, answer in zip(sample(task, 100), answers):
        assert task.evaluate(i, answer) and task.reward(i, answer) == 1.0
        assert not task.evaluate(i, "") and task.reward(i, "I do not know.") == 0.0
    wrong = sum(not task.evaluate(i, other) for i, other in zip(sample(task, 100), answers[1:] + answers[:1]))
    assert wrong > 30


@pytest.mark.parametrize("name", [*TINY, "identity"])
def test_tiny_conversations_fit_a_context_of_128(name: str, tokenizer: Tokenizer) -> None:
    task = TaskSpec(name).build()
    lengths = sorted(len(render_conversation(tokenizer, task.conversation(i)).ids) for i in sample(task, 500))
    assert len(lengths) > 50 and lengths[-1] <= 128 and lengths[len(lengths) // 2] < 70


@pytest.mark.parametrize("name", ["tiny_sums", "tiny_math", "spelling_bee"])
def test_the_tool_gives_the_output_that_is_shown(name: str) -> None:
    task = TaskSpec(name).build()
    for i in sample(task):
        parts = task.conversation(i)[-1]["content"]
        call = next(n for n, part in enumerate(parts) if part["type"] == "python")
        assert parts[call + 1] == {"type": "python_output", "text": evaluate(parts[call]["text"])}


def test_a_question_of_facts_has_one_answer() -> None:
    answers: dict[str, str] = {}
    for split in ("train", "test"):
        task = TinyFacts(split)
        for i in range(len(task)):
            question, answer = (message["content"] for message in task.conversation(i))
            assert answers.setdefault(question, answer) == answer
    assert len(answers) > 900
    test, train = TinyFacts("test"), TinyFacts()
    taught = {train.conversation(i)[-1]["content"] for i in range(len(train))}
    assert {test.conversation(i)[-1]["content"] for i in range(len(test))} <= taught


def test_facts_are_right_in_any_case_and_without_the_stop() -> None:
    task = TinyFacts()
    right = task.conversation(0)[-1]["content"]
    assert task.evaluate(0, right.lower().rstrip(".") + " ")
    assert not task.evaluate(0, right + " Or not.")


def test_stories_answer_what_they_tell() -> None:
    task = TinyStories()
    form = re.compile(
        r"\w+(?: day)? (?P<who>[A-Z]\w+) \w+ (?P<what>an? (?P<colour>\w+) (?P<thing>[a-z ]+?)) "
        r"(?P<where>(?:in|at|on|by) [a-z ]+)\. "
        r"[A-Z][a-z ]+ s?he (?:gave it to (?P<owner>\w+)|put it (?P<spot>[a-z ]+))\."
    )
    kinds = {"Who has": "owner", "Where is": "spot", "Where did": "where", "What colour": "colour", "What did": "what"}
    seen = set()
    for i in sample(task):
        question, answer = (message["content"] for message in task.conversation(i))
        story, asked = question[: question.rindex(". ") + 1], question[question.rindex(". ") + 2 :]
        told = form.fullmatch(story)
        assert told, story
        kind = kinds.get(" ".join(asked.split()[:2]), "who")
        said = re.sub(r"^it (is|was) ", "", answer.lower().rstrip("."))
        assert said == told[kind].lower(), (question, answer)
        seen.add(kind)
    assert len(seen) == 6


def test_sums_need_the_call_and_the_result() -> None:
    task = TinySums("test")
    for i in sample(task, 50):
        parts = task.conversation(i)[-1]["content"]
        assert calls_tool(parts) and task.evaluate(i, parts)
        assert not task.evaluate(i, text_said(parts)), "without the tool"
        assert not task.evaluate(i, [*parts[:2], {"type": "text", "text": "It is 12345678."}])
        call, output, said = parts
        assert not task.evaluate(i, [output, said]), "an output without a call"
        assert not task.evaluate(i, [call, said, output]), "an output that is not the call's"
    numbers = [int(n) for i in sample(task) for n in re.findall(r"\d+", task.prompt(i)[0]["content"])]
    assert max(numbers) > 800 and max(numbers) < 1000 and min(numbers) == 0


def test_word_problems_need_the_number_alone() -> None:
    task = TinyMath()
    parts = task.conversation(5)[-1]["content"]
    assert task.evaluate(5, text_said(parts))
    assert not task.evaluate(5, "Somebody has 100000 pears.")


def test_letters_are_counted_aloud() -> None:
    task = TinyLetters()
    for i in sample(task, 100):
        question, answer = (message["content"] for message in task.conversation(i))
        letter, word = re.findall(r"(?:letter|does) (\w) .*?(\w+)[.?]", question)[0]
        aloud, count = re.fullmatch(r"Letter by letter: (.*)\. The answer is (\d+)\.", answer).groups()  # type: ignore[union-attr]
        assert re.sub(r"[\d ]", "", aloud) == word and int(count) == word.count(letter)
        assert aloud.count(f"{letter}{count}") == (count != "0")


def test_a_list_of_words_is_added(tmp_path: Path) -> None:
    words = tmp_path / "words.txt"
    words.write_text("Quizzaciously\nno-word\n\nzyzzyva\n")
    for kind in (SimpleSpelling, SpellingBee):
        task = kind(path=str(words))
        questions = " ".join(task.prompt(i)[0]["content"] for i in range(3000))
        assert "zyzzyva" in questions and "quizzaciously" in questions and "no-word" not in questions
    words.write_text("1\n2\n")
    with pytest.raises(UserError, match="no word of letters alone"):
        SpellingBee(path=str(words))
    with pytest.raises(UserError, match="cannot be read"):
        SpellingBee(path=str(tmp_path / "none.txt"))


def test_specs_name_their_mistakes() -> None:
    assert set(GENERATED) < set(TASKS)
    for arguments, message in (
        ({"name": "gsm9k"}, "There is no task 'gsm9k'; did you mean 'gsm8k'"),
        ({"name": "custom"}, "needs the path"),
        ({"name": "tiny_sums", "path": "x"}, "takes no path"),
        ({"name": "gsm8k", "val_path": "x"}, "takes no val_path"),
        ({"name": "tiny_sums", "start": 3, "stop": 3}, "stop above start"),
        ({"name": "tiny_sums", "epochs": 0}, "epochs=0"),
    ):
        with pytest.raises(UserError, match=message):
            TaskSpec(**arguments)
    with pytest.raises(UserError, match="none from start=100,000"):
        TaskSpec("tiny_sums", start=100_000).build()
    some = TaskSpec("tiny_sums", start=2, stop=9, step=3).build()
    assert len(some) == 3 and some.conversation(1) == TinySums().conversation(5)
