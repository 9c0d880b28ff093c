"""What is true in the world, and the ways to say and to ask it; the facts themselves are in world.yaml."""

from typing import NamedTuple

from nanochat_pl.tiny_world.tables import WORLD
from nanochat_pl.tiny_world.world import ANIMALS, DAYS, MONTHS, NUMBER_WORDS, Animal, plural, with_article

Row = dict[str, str]
"""What the templates of a fact are filled in with."""


class Family(NamedTuple):
    """Facts of one kind: the rows, and the wordings of each of them as statements, questions and short answers."""

    topic: str
    rows: tuple[Row, ...]
    statements: tuple[str, ...]
    questions: tuple[str, ...]
    answer: str


def home_of(animal: Animal) -> str:
    """`a barn`; `the mountains`."""
    return "the mountains" if animal.home == "mountains" else with_article(animal.home)


def _pairs(table: dict[str, str]) -> tuple[Row, ...]:
    return tuple({"a": a, "an": with_article(a), "b": b, "bn": with_article(b)} for a, b in table.items())


_ROWS: dict[str, tuple[Row, ...]] = {
    name: _pairs(WORLD[name])
    for name in ("capitals", "nature_colours", "foods", "jobs", "materials", "tools", "kinds", "senses")
} | {
    "opposites": _pairs({**WORLD["opposites"], **{b: a for a, b in WORLD["opposites"].items()}}),
    "parts": tuple(
        {"a": a, "b": b, "n": b.rpartition(" ")[0], "unit": b.rpartition(" ")[2]} for a, b in WORLD["parts"].items()
    ),
    "days": tuple({"a": day, "b": DAYS[(i + 1) % 7]} for i, day in enumerate(DAYS)),
    "months": tuple(
        {"a": month, "days": str(days), "season": season, "next": MONTHS[(i + 1) % 12]}
        for i, (month, (days, season)) in enumerate(WORLD["months"].items())
    ),
    "animals": tuple(
        {
            "an": with_article(animal.name),
            "many": plural(animal.name),
            "sound": animal.sound,
            "young": with_article(animal.young),
            "home": home_of(animal),
            "food": animal.food,
            "legs": f"{NUMBER_WORDS[animal.legs]} legs" if animal.legs else "no legs",
            "moves": animal.moves,
        }
        for animal in ANIMALS
    ),
}

FAMILIES = tuple(
    Family(each["topic"], _ROWS[each["about"]], each["statements"], each["questions"], each["answer"])
    for each in WORLD["facts"]
)
