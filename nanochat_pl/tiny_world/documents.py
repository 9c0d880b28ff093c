"""The corpus as numbered documents: `document(index, split)` is always the same text."""

import random
from typing import Literal

_NAMES = ("Tom", "Ann", "Ben", "Mia", "Leo", "Eva", "Sam", "Ida", "Max", "Zoe")
_COLOURS = ("red", "blue", "green", "yellow", "black", "white", "brown", "pink")
_THINGS = ("ball", "hat", "cup", "book", "kite", "box", "drum", "lamp", "key", "coat")
_PLACES = ("park", "garden", "school", "kitchen", "shop", "river", "barn", "beach")


def document(index: int, split: Literal["train", "val"] = "train") -> str:
    """Document number `index` (>= 0) of a split; deterministic, and any index may be asked for at any time."""
    rng = random.Random(f"{split}:{index}")
    lines = []
    for _ in range(rng.randint(3, 14)):
        giver, taker = rng.sample(_NAMES, 2)
        thing, colour, place = rng.choice(_THINGS), rng.choice(_COLOURS), rng.choice(_PLACES)
        lines.append(f"{giver} went to the {place} and gave a {colour} {thing} to {taker}.")
    return " ".join(lines)
