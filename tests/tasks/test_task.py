"""Slices and mixtures of tasks."""

import subprocess
import sys
from collections import Counter

import pytest

from nanochat_pl.core.errors import UserError
from nanochat_pl.tasks.mixture import Mixture, shuffled_index
from nanochat_pl.tasks.spelling import TinyLetters
from nanochat_pl.tasks.task import Choices, ChoiceTask, last_number
from nanochat_pl.tasks.tiny_facts import TinyFacts
from nanochat_pl.tasks.tiny_sums import TinySums


class Colours(ChoiceTask):
    """Question i has i + 2 choices; the first is right."""

    name = "colours"

    def __len__(self) -> int:
        return 3

    def choices(self, i: int) -> Choices:
        self._check_index(i)
        return Choices(f"Which {i}?", ["red", "blue", "green", "grey"][: i + 2], list("ABCD")[: i + 2], "A")


def test_a_slice_is_a_task_of_the_same_kind() -> None:
    sums = TinySums()
    some = sums[10:20:3]
    assert len(some) == 4 and some.name == "tiny_sums" and some.kind == "generative"
    assert [some.conversation(i) for i in range(4)] == [sums.conversation(i) for i in (10, 13, 16, 19)]
    assert some[1:3].prompt(1) == sums.prompt(16)
    assert some.evaluate(2, sums.conversation(16)[-1]["content"])
    with pytest.raises(IndexError, match="0 to 3, not 4"):
        some.conversation(4)

    choices = Colours()[1:]
    assert isinstance(choices, ChoiceTask)
    assert choices.letters(0) == ["A", "B", "C"] and choices.answer(1) == "A"
    assert choices.evaluate(0, "A") and choices.evaluate(0, [{"type": "text", "text": "A"}])
    assert not choices.evaluate(0, "B") and choices.reward(0, "A") == 1.0
    assert len(Colours()[1:1]) == 0


def test_choices_are_rendered_with_the_letter_behind() -> None:
    assert Colours().prompt(0)[0]["content"] == (
        "Multiple Choice question: Which 0?\n- red=A\n- blue=B\n\nRespond only with the letter of the correct answer."
    )


def test_a_mixture_has_every_example_as_often_as_asked() -> None:
    facts, sums, letters = TinyFacts()[:20], TinySums()[:10], TinyLetters()[:7]
    mixture = Mixture([(facts, 1), (sums, 2), (letters, 0.5)], seed=3)
    assert len(mixture) == 20 + 20 + 4
    epochs = [[mixture.place(n) for n in range(e * 44, (e + 1) * 44)] for e in range(7)]
    for places in epochs:
        counts = Counter(places)
        assert all(counts[0, i] == 1 for i in range(20)) and all(counts[1, i] == 2 for i in range(10))
        assert sum(counts[2, i] for i in range(7)) == 4
    assert epochs[0] != epochs[1] and [place.task for place in epochs[0]] != sorted(p.task for p in epochs[0])
    # Seven epochs of 4 of the 7 letters: each of them 4 times.
    assert Counter(p.i for places in epochs for p in places if p.task == 2) == dict.fromkeys(range(7), 4)
    again = Mixture([(facts, 1), (sums, 2), (letters, 0.5)], seed=3)
    assert again.place(250) == epochs[5][250 - 220] and again.conversation(250) == mixture.conversation(250)
    assert [Mixture([(facts, 1)], seed=4).place(n) for n in range(20)] != [
        Mixture([(facts, 1)], seed=3).place(n) for n in range(20)
    ]


def test_fingerprints_tell_tasks_apart_and_are_the_same_everywhere() -> None:
    tasks = [TinySums(), TinySums("test"), TinySums()[:100], TinySums()[:100:2], TinySums()[1:100:2], TinyLetters()]
    mixtures = [Mixture([(tasks[0], 1)]), Mixture([(tasks[0], 2)]), Mixture([(tasks[0], 1)], seed=1)]
    fingerprints = [each.fingerprint for each in (*tasks, *mixtures)]
    assert len(set(fingerprints)) == len(fingerprints)
    assert TinySums()[:100:2].fingerprint == fingerprints[3]
    program = "from nanochat_pl.tasks.tiny_sums import TinySums; print(TinySums().fingerprint)"
    other = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert other.stdout.strip() == fingerprints[0]


def test_mistakes_in_a_mixture_are_named() -> None:
    with pytest.raises(UserError, match=r"No task is named. .*tasks.path=FILE.*tasks.val"):
        Mixture([])
    with pytest.raises(UserError, match="tiny_sums has no examples"):
        Mixture([(TinySums()[:0], 1)])
    with pytest.raises(UserError, match=r"epochs of the task tiny_sums are 0"):
        Mixture([(TinySums(), 0)])


@pytest.mark.parametrize("n", [1, 2, 3, 10, 64, 65, 1000])
def test_the_shuffle_is_a_permutation(n: int) -> None:
    order = [shuffled_index(i, n, 1, 2) for i in range(n)]
    assert sorted(order) == list(range(n))
    if n >= 10:
        assert order != [shuffled_index(i, n, 1, 3) for i in range(n)] and order != list(range(n))


def test_the_shuffle_is_even() -> None:
    """Over many keys, every position points everywhere about equally often."""
    counts = Counter((i, shuffled_index(i, 5, key)) for key in range(1000) for i in range(5))
    assert len(counts) == 25 and all(150 < count < 250 for count in counts.values())


def test_the_last_number_of_a_text() -> None:
    assert last_number("2 and 1,234.5.") == 1234.5
    assert last_number("-3 it is") == -3
    assert last_number("none") is None
