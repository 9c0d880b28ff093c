"""Every sentence belongs to one split: its own text decides, so that no held-out sentence occurs in training."""

import random
import re
from collections.abc import Iterable, Sequence
from typing import Literal, TypeVar
from zlib import crc32

from nanochat_pl.tiny_world.world import capital

Split = Literal["train", "val"]
Item = TypeVar("Item")

VAL_ONE_IN = 8
_SENTENCE_END = re.compile(r"""(?<=[.!?])\s+(?=[A-Z0-9"])|(?<=[.!?]")\s+(?=[A-Z0-9"])|\n+""")


def sentences(text: str) -> list[str]:
    """The sentences of a document; a line ends a sentence, also without a full stop."""
    return [s for s in _SENTENCE_END.split(text) if s]


def split_of(sentence: str) -> Split:
    """One sentence in eight belongs to the held-out split, by a checksum of its text."""
    return "train" if crc32(sentence.encode()) % VAL_ONE_IN else "val"


class Teller:
    """Words things for one document: draws among wordings until the sentence belongs to the document's split."""

    def __init__(self, seed: int, split: Split):
        self.rng = random.Random(seed)
        self.random = self.rng.random
        self._val = split == "val"
        self._tries = 40 if self._val else 5

    def pick(self, items: Sequence[Item]) -> Item:
        """One of `items`; faster than random.choice."""
        return items[int(self.random() * len(items))]

    def number(self, start: int, count: int) -> int:
        """One of `count` numbers from `start` on."""
        return start + int(self.random() * count)

    def fits(self, sentence: str) -> bool:
        """Whether the sentence belongs to this document's split."""
        return (crc32(sentence.encode()) % VAL_ONE_IN == 0) is self._val

    def tell(self, templates: Sequence[str], slots: dict[str, str], openers: Sequence[str] = ("",)) -> str | None:
        """One sentence from a template, with an opener before it; None where no wording was found for the split.

        Templates and openers begin as they would within a sentence; the first letter is made a capital.
        """
        for _ in range(self._tries):
            line = capital((self.pick(openers) + self.pick(templates)).format_map(slots))
            if self.fits(line):
                return line
        return None

    def tell_all(self, parts: Iterable[tuple[Sequence[str], Sequence[str]]], slots: dict[str, str]) -> str | None:
        """A sentence of each part, (templates, openers); None where one of them was not found."""
        lines = [self.tell(templates, slots, openers) for templates, openers in parts]
        return " ".join(line for line in lines if line) if all(lines) else None

    def joined(self, lines: Iterable[str | None], in_a_row: float, at_least: int = 3) -> str | None:
        """The lines that could be told as a document, a share of documents `in_a_row`; None where they are too few."""
        told = [line for line in lines if line]
        return (" " if self.random() < in_a_row else "\n").join(told) if len(told) >= at_least else None
