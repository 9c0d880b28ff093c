"""Documents of words: spelling, counting and finding letters, the alphabet."""

from nanochat_pl.tiny_world.facts import JOBS, KINDS, MATERIALS, OPPOSITES, SENSES
from nanochat_pl.tiny_world.split import Teller
from nanochat_pl.tiny_world.world import (
    ACTIVITIES,
    ANIMALS,
    CHORES,
    COLOURS,
    COUNTABLE,
    FOODS,
    NUMBER_WORDS,
    PEOPLE,
    PETS,
    PLACES,
    SIZES,
    THING_USES,
    THINGS,
    WEATHER,
    listing,
)

VOCABULARY = tuple(
    dict.fromkeys(
        word
        for word in (
            *(t for t in THINGS if " " not in t),
            *FOODS,
            *(a.name for a in ANIMALS),
            *(p.name for p in PLACES if " " not in p.name),
            *(
                *COLOURS,
                *SIZES,
                *WEATHER,
                *KINDS,
                *MATERIALS,
                *JOBS,
                *NUMBER_WORDS[:20],
                *COUNTABLE,
                *PETS,
                *SENSES.values(),
            ),
            *(*OPPOSITES, *OPPOSITES.values()),
            *(
                word
                for phrase in (*ACTIVITIES, *CHORES, *THING_USES.values())
                for word in phrase.split()
                if len(word) > 3
            ),
        )
        if word.isalpha() and word.islower()
    )
)
"""The words that are spelled."""

_ALPHABET = "abcdefghijklmnopqrstuvwxyz"
_SPELLINGS = (
    "the word {word} is spelled {letters}.",
    "the spelling of {word} is {letters}.",
    "{who} spells {word}: {letters}.",
    "the letters {letters} spell {word}.",
    "{who} knows how to spell {word}: {letters}.",
    "spell {word} like this: {letters}.",
)
_LENGTHS = (
    "{who} says that {word} has {n} letters.",
    "the word {word} has {n} letters.",
    "there are {n} letters in {word}.",
    "{who} counts {n} letters in {word}.",
    "if you count the letters of {word}, you get {n}.",
)
_ENDS = (
    "the word {word} begins with {first} and ends with {last}.",
    "the first letter of {word} is {first}.",
    "the last letter of {word} is {last}.",
    "{who} says that {word} begins with {first}.",
    "the word {word} ends with the letter {last}.",
    "letter number {k} of {word} is {kth}.",
)
_LETTER_COUNTS = (
    "the letter {x} is in {word} {times}.",
    "the word {word} contains the letter {x} {times}.",
    "{who} finds the letter {x} in {word} {times}.",
    "in {letters}, the letter {x} comes {times}, so {word} has it {times}.",
)
_BACKWARDS = (
    "backwards, {word} is {reversed}.",
    "from the end to the beginning, {word} is {reversed}.",
    "{who} writes {word} backwards: {reversed}.",
)
_ALPHABETS = (
    "after the letter {l} comes {m}.",
    "the letter {l} comes before {m} in the alphabet.",
    "the letters from {l} to {q} are {run}.",
    "{who} says the letters from {l} on: {run}.",
    "letter number {nth} of the alphabet is {l}.",
)
_ORDERS = (
    "in the order of the alphabet: {sorted}.",
    "{who} puts {words} in order: {sorted}.",
    "in order, {words} are {sorted}.",
    "of {words}, the first in the alphabet is {least}.",
    "the longest of the words {words} is {longest}.",
)


def spelling(teller: Teller) -> str | None:
    """Words spelled, their letters counted, found, turned round and put in order."""
    told = []
    word = teller.pick(VOCABULARY)
    for _ in range(4 + int(teller.random() * 7)):
        if teller.random() < 0.55:
            word = teller.pick(VOCABULARY)
        told.append(_about_word(teller, word) if teller.random() < 0.8 else _about_letters(teller))
    lines = list(dict.fromkeys(line for line in told if line))
    return (" " if teller.random() < 0.5 else "\n").join(lines) if len(lines) >= 3 else None


def _about_word(teller: Teller, word: str) -> str | None:
    letters = word.lower()
    k = int(teller.random() * len(letters))
    x = teller.pick(letters) if teller.random() < 0.8 else teller.pick(_ALPHABET)
    n = letters.count(x)
    slots = {
        "word": f'"{word}"' if teller.random() < 0.5 else word,
        "letters": "-".join(letters),
        "reversed": "-".join(letters[::-1]),
        "n": str(len(letters)) if teller.random() < 0.5 else NUMBER_WORDS[len(letters)],
        "first": letters[0],
        "last": letters[-1],
        "k": str(k + 1),
        "kth": letters[k],
        "x": x,
        "times": ("zero times", "once", "twice", "three times", "four times")[n],
        "who": teller.pick(PEOPLE).name,
    }
    return teller.tell(teller.pick((_SPELLINGS, _LENGTHS, _ENDS, _LETTER_COUNTS, _BACKWARDS)), slots)


def _about_letters(teller: Teller) -> str | None:
    start, length = int(teller.random() * 20), 3 + int(teller.random() * 4)
    words = [w for w in teller.rng.sample(VOCABULARY, 3 + int(teller.random() * 2)) if w[0].islower()]
    slots = {
        "l": _ALPHABET[start],
        "m": _ALPHABET[start + 1],
        "q": _ALPHABET[min(start + length, 26) - 1],
        "run": ", ".join(_ALPHABET[start : start + length]),
        "nth": str(start + 1),
        "who": teller.pick(PEOPLE).name,
    }
    longest = sorted(words, key=len)[-2:]
    if len(words) < 3 or len(longest[0]) == len(longest[1]):
        return teller.tell(_ALPHABETS, slots)
    slots |= {"words": listing(words), "sorted": ", ".join(sorted(words)), "least": min(words), "longest": longest[1]}
    return teller.tell(_ORDERS, slots)
