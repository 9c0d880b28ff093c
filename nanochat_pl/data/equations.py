"""Equations made by formula, of which only the answer is learned: modular arithmetic, and addition by length."""

import functools
import hashlib
import random
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from nanochat_pl.core.errors import UserError, nearest
from nanochat_pl.data.packing import Packing
from nanochat_pl.data.sources import MemorySource
from nanochat_pl.data.specs import DataSpec, Sources
from nanochat_pl.data.targets import LEARNED
from nanochat_pl.tokenizers.base import Tokenizer

Learned = Literal["answer", "all"]
"""What of an equation is learned: what stands behind its last "=", or every token."""

OPERATIONS = {"+": lambda a, b, p: a + b, "-": lambda a, b, p: a - b, "*": lambda a, b, p: a * b,
              "/": lambda a, b, p: a * pow(b, -1, p)}  # fmt: skip


class EquationSource(MemorySource):
    """Equations in memory, each read by itself, so that they are shuffled one by one."""

    marks_learned = True

    def __init__(self, equations: Sequence[str], learned: Learned):
        super().__init__(equations)
        self._learned, self._block = learned, 1

    @functools.cached_property
    def fingerprint(self) -> str:
        return hashlib.sha256(f"{self._learned} {super().fingerprint}".encode()).hexdigest()

    def encode(self, tokenizer: Tokenizer, documents: Sequence[Any], num_threads: int) -> list[np.ndarray]:
        """Ids without BOS, those to be learned with LEARNED added."""
        whole = [ids.astype(np.int64) for ids in tokenizer.encode_batch(documents, num_threads=num_threads)]
        if self._learned == "all":
            return [ids + LEARNED for ids in whole]
        questions = [text[: text.rindex("=") + 1] for text in documents]
        for ids, question in zip(whole, tokenizer.encode_batch(questions, num_threads=num_threads)):
            ids[len(question) :] += LEARNED
        return whole


@dataclass(frozen=True)
class EquationDataSpec(DataSpec):
    """What all equations can be told.

    Attributes:
        learned: what of an equation is learned.
    """

    learned: Learned = "answer"
    packing: Packing = "whole"
    val_tokens: int | None = None

    def check(self) -> None:
        super().check()
        if self.packing == "windows":
            raise UserError("data.packing=windows is for text; equations are packed whole or best_fit.")

    def equations(self) -> tuple[list[str], list[str]]:
        """To train on, and held out."""
        raise NotImplementedError

    def build_sources(self) -> Sources:
        train, val = self.equations()
        return EquationSource(train, self.learned), EquationSource(val, self.learned)


@dataclass(frozen=True)
class ModularDataSpec(EquationDataSpec):
    """All equations a OPERATION b = c modulo a prime, of which a random share is trained on (Power et al., "Grokking",
    arXiv 2201.02177). A number is a word.

    Attributes:
        operation: +, -, * or /.
        train_fraction: of the equations.
        split_seed: of the share.
    """

    prime: int = 97
    operation: str = "/"
    train_fraction: float = 0.5
    split_seed: int = 0

    def check(self) -> None:
        super().check()
        if self.prime < 3 or any(self.prime % n == 0 for n in range(2, int(self.prime**0.5) + 1)):
            raise UserError(f"data.prime is {self.prime}; it must be a prime from 3 on, such as 97 or 223.")
        if self.operation not in OPERATIONS:
            raise UserError(
                f"data.operation is {self.operation!r}; legal values: {', '.join(OPERATIONS)}"
                f"{nearest(self.operation, tuple(OPERATIONS))}"
            )
        self.check_fraction("train_fraction")

    def equations(self) -> tuple[list[str], list[str]]:
        p, formula = self.prime, OPERATIONS[self.operation]
        first = 1 if self.operation == "/" else 0
        every = [f"{a} {self.operation} {b} = {formula(a, b, p) % p}" for a in range(p) for b in range(first, p)]
        random.Random(self.split_seed).shuffle(every)
        train = round(self.train_fraction * len(every))
        return every[:train], every[train:]


@dataclass(frozen=True)
class AdditionDataSpec(EquationDataSpec):
    """Sums of two numbers with equally many digits. Some lengths are held out: never trained on, only validated.

    Numbers are filled up with zeros, sums have a digit more and stand with their last digit first, in the order in
    which they are worked out (Lee et al., arXiv 2307.03381): 047+605=2560.

    Attributes:
        train_digits, held_out_digits: lengths of the numbers. Validation has both, the former with other numbers.
        train_equations, val_equations: of each length, at most.
    """

    train_digits: tuple[int, ...] = (1, 2, 3, 5)
    held_out_digits: tuple[int, ...] = (4, 6)
    train_equations: int = 50_000
    val_equations: int = 500
    split_seed: int = 0

    def check(self) -> None:
        super().check()
        if not self.train_digits or min(*self.train_digits, *self.held_out_digits, 1) < 1:
            raise UserError("data.train_digits needs a length, and all lengths of data.*_digits are 1 or more.")
        if both := sorted({*self.train_digits} & {*self.held_out_digits}):
            raise UserError(f"data.held_out_digits has the length {both[0]}, which data.train_digits has too.")
        self.check_at_least_1("train_equations", "val_equations")

    def equations(self) -> tuple[list[str], list[str]]:
        train, val = [], []
        for digits in (*self.train_digits, *self.held_out_digits):
            is_trained, pairs = digits in self.train_digits, 10 ** (2 * digits)
            wanted = self.val_equations + self.train_equations * is_trained
            numbers = random.Random(f"{self.split_seed} {digits}").sample(range(pairs), min(wanted, pairs))
            held_out = min(self.val_equations, len(numbers) // 5) if is_trained else len(numbers)
            made = [_sum(number // 10**digits, number % 10**digits, digits) for number in numbers]
            val += made[:held_out]
            train += made[held_out:]
        return train, val


def _sum(a: int, b: int, digits: int) -> str:
    return f"{a:0{digits}}+{b:0{digits}}={f'{a + b:0{digits + 1}}'[::-1]}"
