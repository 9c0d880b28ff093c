"""Documents of rows of things: lists, plans for a week, who owns what, riddles, letters."""

from nanochat_pl.tiny_world import world
from nanochat_pl.tiny_world.facts import home_of
from nanochat_pl.tiny_world.split import Teller
from nanochat_pl.tiny_world.stories import end_story, make_story
from nanochat_pl.tiny_world.tables import WORDINGS

W = WORDINGS["lists"]


def lists(teller: Teller) -> str | None:
    """A title and its items, a line each, with dashes or numbers."""
    kind = teller.pick(tuple(W["items"]))
    who, other = teller.rng.sample(world.PEOPLE, 2)
    title = teller.tell(
        W["list_titles"], {"who": who.name, "other": other.name, "kind": kind, "day": teller.pick(world.DAYS)}
    )
    mark = teller.pick(("- ", "* ", "number"))
    items: list[str] = []
    used: set[str] = set()
    wanted = teller.number(4, 6)
    for _ in range(25 * wanted):
        noun, thing, chore = teller.pick(tuple(world.FOODS)), teller.pick(world.THINGS), teller.pick(world.CHORES)
        colour = teller.pick(world.COLOURS)
        slots = {
            "who": teller.pick(world.PEOPLE).name,
            "n_food": world.counted(teller.number(1, 12), noun),
            "n_count": world.counted(teller.number(1, 12), teller.pick(world.COUNTABLE)),
            "n_objects": world.counted(teller.number(2, 11), teller.pick(world.OBJECTS)),
            "thing": f"{colour} {thing}",
            "a_thing": world.with_article(f"{colour} {thing}"),
            "chore": chore,
        }
        body = teller.pick(W["items"][kind]).format_map(slots)
        line = f"{len(items) + 1}) {body}" if mark == "number" else f"{mark}{body}"
        if body not in used and teller.fits(line):
            used.add(body)
            items.append(line)
        if len(items) == wanted:
            break
    return "\n".join([title, *items]) if title and len(items) >= 3 else None


def week(teller: Teller) -> str | None:
    """What people do on the days of a week, in the order of the days."""
    who = [p.name for p in teller.rng.sample(world.PEOPLE, teller.number(1, 3))]
    start, n = teller.number(0, 7), teller.number(3, 5)
    lines = []
    for i in range(n):
        for _ in range(3):
            slots = {"day": world.DAYS[(start + i) % 7], "who": teller.pick(who), "does": teller.pick(world.ACTIVITIES)}
            if line := teller.tell(W["plans"], slots):
                lines.append(line)
                break
    return teller.joined(lines, 0.7)


def riddles(teller: Teller) -> str | None:
    """Animals described by what is true of them, to be guessed."""
    told = []
    for animal in teller.rng.sample(world.ANIMALS, teller.number(2, 3)):
        who, other = teller.rng.sample(world.PEOPLE, 2)
        slots = {
            "who": who.name,
            "other": other.name,
            "home": home_of(animal),
            "young": world.with_article(animal.young),
        }
        slots |= {
            "legs": world.NUMBER_WORDS[animal.legs] if animal.legs else "no",
            "an": world.with_article(animal.name),
        }
        slots |= {"sound": animal.sound, "moves": animal.moves, "food": animal.food}
        told.append(teller.tell_all([(W[part], ("",)) for part in ("riddles", "riddle_asks", "riddle_answers")], slots))
    return "\n".join(filter(None, told)) or None


def letter(teller: Teller) -> str | None:
    """A letter or a page of a diary: a story told by the one to whom it happened."""
    who, other = teller.rng.sample(world.PEOPLE, 2)
    slots = {
        "who": who.name,
        "other": other.name,
        "weather": teller.pick(world.WEATHER[:4]),
        "day": teller.pick(world.DAYS),
    }
    slots |= {"month": teller.pick(world.MONTHS), "n": str(teller.number(1, 28))}
    story = make_story(teller, teller.number(3, 7), narrator=True)
    if story is None:
        return None
    body = " ".join(filter(None, [*story.sentences, end_story(story, teller)]))
    if teller.random() < 0.4:
        date = teller.tell(W["dates"], slots)
        return f"{date}\n{body}" if date else None
    greeting, closing = teller.tell(W["greetings"], slots), teller.tell(W["closings"], slots)
    if any(p.name in (who.name, other.name) for p in story.people):
        return None
    return f"{greeting}\n{body}\n{closing}" if greeting and closing else None


def similar_things(teller: Teller) -> str | None:
    """What several people have of one kind, each in another colour, and who has which."""
    thing = teller.pick(world.THINGS)
    people = teller.rng.sample(world.PEOPLE, teller.number(3, 4))
    colours = teller.rng.sample(world.COLOURS, len(people))
    lines: list[str | None] = []
    for person, colour in zip(people, colours):
        slots = {"who": person.name, "his": person.his, "thing": thing, "things": world.plural(thing), "colour": colour}
        slots |= {"a": world.with_article(f"{colour} {thing}")}
        if line := teller.tell(W["owns"], slots):
            lines.append(line)
            if teller.random() < 0.4:
                lines.append(teller.tell(W["own_again"], slots))
    return teller.joined(lines, 0.7)
