"""Documents of words: spelling, counting and finding letters, the alphabet."""

from string import ascii_lowercase as ALPHABET

from nanochat_pl.tiny_world import world
from nanochat_pl.tiny_world.split import Teller
from nanochat_pl.tiny_world.tables import WORDINGS, WORLD

W = WORDINGS["words"]

_PHRASES = (*world.ACTIVITIES, *world.CHORES, *world.THING_USES.values())
_WORDS = (
    *(*world.THINGS, *world.FOODS, *(animal.name for animal in world.ANIMALS), *(place.name for place in world.PLACES)),
    *(*world.COLOURS, *world.SIZES, *world.WEATHER, *WORLD["kinds"], *WORLD["materials"], *WORLD["jobs"]),
    *(*world.NUMBER_WORDS[:20], *world.COUNTABLE, *world.PETS, *WORLD["senses"].values()),
    *(*WORLD["opposites"], *WORLD["opposites"].values()),
    *(word for phrase in _PHRASES for word in phrase.split() if len(word) > 3),
)
VOCABULARY = tuple(dict.fromkeys(word for word in _WORDS if word.isalpha() and word.islower()))
"""The words that are spelled."""


def spelling(teller: Teller) -> str | None:
    """Words spelled, their letters counted, found, turned round and put in order."""
    told = []
    word = teller.pick(VOCABULARY)
    for _ in range(teller.number(4, 7)):
        if teller.random() < 0.55:
            word = teller.pick(VOCABULARY)
        told.append(_about_word(teller, word) if teller.random() < 0.8 else _about_letters(teller))
    return teller.joined(dict.fromkeys(told), 0.5)


def _about_word(teller: Teller, word: str) -> str | None:
    k = teller.number(0, len(word))
    x = teller.pick(word) if teller.random() < 0.8 else teller.pick(ALPHABET)
    slots = {
        "word": f'"{word}"' if teller.random() < 0.5 else word,
        "letters": "-".join(word),
        "reversed": "-".join(word[::-1]),
        "n": str(len(word)) if teller.random() < 0.5 else world.NUMBER_WORDS[len(word)],
        "first": word[0],
        "last": word[-1],
        "k": str(k + 1),
        "kth": word[k],
        "x": x,
        "times": ("zero times", "once", "twice", "three times", "four times")[word.count(x)],
        "who": teller.pick(world.PEOPLE).name,
    }
    return teller.tell(W[teller.pick(("spellings", "lengths", "ends", "letter_counts", "backwards"))], slots)


def _about_letters(teller: Teller) -> str | None:
    start, length = teller.number(0, 20), teller.number(3, 4)
    words = teller.rng.sample(VOCABULARY, teller.number(3, 2))
    slots = {
        "l": ALPHABET[start],
        "m": ALPHABET[start + 1],
        "q": ALPHABET[min(start + length, 26) - 1],
        "run": ", ".join(ALPHABET[start : start + length]),
        "nth": str(start + 1),
        "who": teller.pick(world.PEOPLE).name,
    }
    longest = sorted(words, key=len)[-2:]
    if len(longest[0]) == len(longest[1]):
        return teller.tell(W["alphabets"], slots)
    slots |= {
        "words": world.listing(words),
        "sorted": ", ".join(sorted(words)),
        "least": min(words),
        "longest": longest[1],
    }
    return teller.tell(W["orders"], slots)
