"""The corpus as numbered documents: `document(index, split)` is always the same text."""

from collections.abc import Callable

from nanochat_pl.tiny_world import lists, numbers, talk, words
from nanochat_pl.tiny_world.split import Split, Teller
from nanochat_pl.tiny_world.stories import end_story, make_story


def story(teller: Teller) -> str | None:
    """A story of 5 to 18 sentences, now and then with an ending."""
    told = make_story(teller, 4 + int(teller.random() ** 2 * 14))
    if told is None:
        return None
    ending = end_story(told, teller) if teller.random() < 0.8 else None
    return " ".join(filter(None, [*told.sentences, ending]))


KINDS: dict[str, tuple[int, Callable[[Teller], str | None]]] = {
    "story": (34, story),
    "letter": (6, lists.letter),
    "similar_things": (5, lists.similar_things),
    "lesson": (8, talk.lesson),
    "mixed_facts": (5, talk.mixed_facts),
    "quiz": (8, talk.quiz),
    "conversation": (7, talk.conversation),
    "sums": (6, numbers.sums),
    "counting": (3, numbers.counting),
    "comparing": (3, numbers.comparing),
    "word_problems": (5, numbers.word_problems),
    "shopping": (2, numbers.shopping),
    "spelling": (5, words.spelling),
    "lists": (4, lists.lists),
    "week": (3, lists.week),
    "riddles": (3, lists.riddles),
}
"""Kind of document -> its share (of the sum of shares), and what makes one."""

_TICKETS = tuple(kind for kind, (share, _) in KINDS.items() for _ in range(share))
_ATTEMPTS = 1024


def document(index: int, split: Split = "train", kind: str | None = None) -> str:
    """Document number `index` (>= 0) of a split: the same text at every call, in any order.

    No sentence of a `val` document occurs in a `train` document. `kind` (a key of KINDS) asks for one kind alone.
    """
    side = 1 if split == "val" else 0
    for attempt in range(_ATTEMPTS):
        teller = Teller(((index * _ATTEMPTS + attempt) << 1) | side, split)
        kind = kind or teller.pick(_TICKETS)
        text = KINDS[kind][1](teller)
        if text:
            return text
    raise AssertionError(f"no document {index} of split {split}")
