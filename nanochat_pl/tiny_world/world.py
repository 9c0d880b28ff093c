"""The people, places, things and animals of the world (world.yaml), and the words for them. Facts are in facts.py."""

from collections.abc import Sequence
from typing import NamedTuple

from nanochat_pl.tiny_world.tables import WORLD


class Person(NamedTuple):
    """A person with the pronouns that a story uses for them."""

    name: str
    he: str
    him: str
    his: str

    @property
    def object(self) -> str:
        return "me" if self.name == "I" else self.name

    @property
    def possessive(self) -> str:
        return "my" if self.name == "I" else f"{self.name}'s"


class Place(NamedTuple):
    """`to` where people go and `at` where they are."""

    name: str
    to: str
    at: str


class Spot(NamedTuple):
    """Where things are put: `in_` and taken `out` of."""

    in_: str
    out: str


class Animal(NamedTuple):
    """An animal and what is true of it."""

    name: str
    sound: str
    young: str
    home: str
    food: str
    legs: int
    moves: str


PEOPLE = tuple(
    [Person(name, "she", "her", "her") for name in WORLD["girls"]]
    + [Person(name, "he", "him", "his") for name in WORLD["boys"]]
)
NARRATOR = Person("I", "I", "me", "my")
COLOURS, SIZES = WORLD["colours"], WORLD["sizes"]
THING_USES: dict[str, str] = WORLD["things"]
"""What people carry about, and what they do with it; `{the}` stands for the thing."""
THINGS = tuple(THING_USES)
PLACES = tuple(Place(n, f"to the {n}", f"{at} the {n}") for at, names in WORLD["places"].items() for n in names)
SPOTS = tuple(Spot(f"{spot['in']} the {n}", f"{spot['out']} the {n}") for spot in WORLD["spots"] for n in spot["of"])
FOODS: dict[str, str] = WORLD["foods"]
"""Food that can be counted -> its usual colour."""
OBJECTS = WORLD["objects"]
COUNTABLE = (*FOODS, *OBJECTS)
"""What word problems and lists count."""
ANIMALS = tuple(Animal(*row) for row in WORLD["animals"])
PETS: dict[str, str] = WORLD["pets"]
"""Pet -> what it did."""
DAYS, MONTHS, TIMES, WEATHER = WORLD["days"], tuple(WORLD["months"]), WORLD["times"], WORLD["weather"]
ACTIVITIES, CHORES = WORLD["activities"], WORLD["chores"]

_ONES, _TENS = WORLD["ones"], WORLD["tens"]
NUMBER_WORDS = (
    *_ONES,
    *(ten if one == 0 else f"{ten}-{_ONES[one]}" for ten in _TENS for one in range(10)),
    "one hundred",
)
"""NUMBER_WORDS[n] is n in words, up to 100."""

_PLURALS = {"mouse": "mice", "sheep": "sheep", "goose": "geese", "wolf": "wolves", "scarf": "scarves"}


def plural(noun: str) -> str:
    """The plural of a noun of this world."""
    if noun in _PLURALS:
        return _PLURALS[noun]
    if noun.endswith(("s", "ch", "sh", "x")) or noun in ("tomato", "potato"):
        return f"{noun}es"
    if noun.endswith("y") and noun[-2] not in "aeiou":
        return f"{noun[:-1]}ies"
    return f"{noun}s"


def with_article(phrase: str) -> str:
    """`an apple`, `a red apple`."""
    return f"an {phrase}" if phrase[0] in "aeiou" else f"a {phrase}"


def counted(n: int, noun: str) -> str:
    """`1 apple`, `3 apples`."""
    return f"{n} {noun if n == 1 else plural(noun)}"


def listing(items: Sequence[str]) -> str:
    """`a`, `a and b`, `a, b and c`."""
    return items[0] if len(items) == 1 else f"{', '.join(items[:-1])} and {items[-1]}"


def capital(text: str) -> str:
    """With its first letter made a capital."""
    return text[0].upper() + text[1:]
