"""Documents of rows of things: lists, plans for a week, who owns what, riddles, letters."""

from nanochat_pl.tiny_world.split import Teller
from nanochat_pl.tiny_world.stories import end_story, make_story
from nanochat_pl.tiny_world.world import (
    ACTIVITIES,
    ANIMALS,
    CHORES,
    COLOURS,
    COUNTABLE,
    DAYS,
    FOODS,
    MONTHS,
    NUMBER_WORDS,
    OBJECTS,
    PEOPLE,
    THINGS,
    WEATHER,
    counted,
    plural,
    with_article,
)

_LIST_TITLES = (
    "{who}'s {kind}",
    "{kind} for {who}",
    "{who} and {other}: {kind}",
    "{kind}, {day}",
    "{who} writes this list for {day}:",
    "{day}: {who}'s {kind}",
)
_ITEMS = {
    "shopping list": ("{n_food}", "{n_food}", "{n_food} for {who}", "{a_thing}"),
    "packing list": ("{a_thing}", "{n_count}", "{a_thing} for {who}"),
    "things to do": ("{chore}", "{chore} with {who}", "{chore} for {who}", "give {a_thing} to {who}"),
    "birthday presents": ("{a_thing} for {who}", "{who}: {a_thing}", "{n_objects} for {who}"),
    "things in the cupboard": ("{a_thing}", "{n_count}", "{who}'s {thing}"),
    "guests and what they bring": ("{who} brings {n_food}", "{who} brings {a_thing}", "{who}: {n_food}"),
}


def lists(teller: Teller) -> str | None:
    """A title and its items, a line each, with dashes or numbers."""
    kind = teller.pick(tuple(_ITEMS))
    who, other = teller.rng.sample(PEOPLE, 2)
    title = teller.tell(_LIST_TITLES, {"who": who.name, "other": other.name, "kind": kind, "day": teller.pick(DAYS)})
    mark = teller.pick(("- ", "* ", "number"))
    items: list[str] = []
    used: set[str] = set()
    wanted = 4 + int(teller.random() * 6)
    for _ in range(25 * wanted):
        noun, thing, chore = teller.pick(tuple(FOODS)), teller.pick(THINGS), teller.pick(CHORES)
        colour = teller.pick(COLOURS)
        slots = {
            "who": teller.pick(PEOPLE).name,
            "n_food": counted(1 + int(teller.random() * 12), noun),
            "n_count": counted(1 + int(teller.random() * 12), teller.pick(COUNTABLE)),
            "n_objects": counted(2 + int(teller.random() * 11), teller.pick(OBJECTS)),
            "thing": f"{colour} {thing}",
            "a_thing": with_article(f"{colour} {thing}"),
            "chore": chore,
        }
        body = teller.pick(_ITEMS[kind]).format_map(slots)
        line = f"{len(items) + 1}) {body}" if mark == "number" else f"{mark}{body}"
        if body not in used and teller.fits(line):
            used.add(body)
            items.append(line)
        if len(items) == wanted:
            break
    return "\n".join([title, *items]) if title and len(items) >= 3 else None


_PLANS = (
    "on {day}, {who} {does}.",
    "{who} {does} on {day}.",
    "{day} is the day when {who} {does}.",
    "every {day}, {who} {does}.",
    "when it is {day}, {who} {does}.",
    "it is {day}, so {who} {does}.",
)


def week(teller: Teller) -> str | None:
    """What people do on the days of a week, in the order of the days."""
    who = [p.name for p in teller.rng.sample(PEOPLE, 1 + int(teller.random() * 3))]
    start, n = int(teller.random() * 7), 3 + int(teller.random() * 5)
    lines = []
    for i in range(n):
        for _ in range(3):
            slots = {"day": DAYS[(start + i) % 7], "who": teller.pick(who), "does": teller.pick(ACTIVITIES)}
            line = teller.tell(_PLANS, slots)
            if line:
                lines.append(line)
                break
    return (" " if teller.random() < 0.7 else "\n").join(lines) if len(lines) >= 3 else None


_RIDDLES = (
    "I have {legs} legs and say {sound}, {who}.",
    "my home is {home}, and I say {sound}, {who}.",
    "{who}, I like to {moves} and I eat {food}.",
    "I eat {food}, I can {moves}, and my child is {young}, {who}.",
    "my young is {young}, {who}, and I say {sound}.",
    "{who}, {sound} is what I say and {food} is what I eat.",
)
_RIDDLE_ASKS = (
    "what am I, {other}?",
    "who am I, {other}?",
    "{other}, can you guess what I am?",
    "guess what I am, {other}!",
)
_RIDDLE_ANSWERS = (
    "{other} says: you are {an}.",
    "you are {an}, {who}!",
    '"It is {an}," said {other}.',
    "{an} is the answer that {other} gave.",
    "{other} knows that it is {an}.",
)


def riddles(teller: Teller) -> str | None:
    """Animals described by what is true of them, to be guessed."""
    told = []
    for animal in teller.rng.sample(ANIMALS, 2 + int(teller.random() * 3)):
        who, other = teller.rng.sample(PEOPLE, 2)
        home = "the mountains" if animal.home == "mountains" else with_article(animal.home)
        slots = {
            "who": who.name,
            "other": other.name,
            "legs": NUMBER_WORDS[animal.legs] if animal.legs else "no",
            "home": home,
        }
        slots |= {
            "sound": animal.sound,
            "moves": animal.moves,
            "food": animal.food,
            "young": with_article(animal.young),
        }
        slots["an"] = with_article(animal.name)
        lines = [teller.tell(wordings, slots) for wordings in (_RIDDLES, _RIDDLE_ASKS, _RIDDLE_ANSWERS)]
        if all(lines):
            told.append(" ".join(line for line in lines if line))
    return "\n".join(told) if told else None


_GREETINGS = (
    "dear {other}, how are you on this {weather} {day}?",
    "dear {other}, I hope that you are well.",
    "hello {other}, here is a letter from {who}.",
    "dear {other}, today is {day} and the weather is {weather}.",
    "dear {other}, thank you for your letter of {day}!",
)
_CLOSINGS = (
    "your friend {who}",
    "love from {who}",
    "see you on {day}, {who}",
    "please write back soon, {who}",
    "yours, {who}",
    "best wishes to you all, {who}",
)
_DATES = ("{day}, {month} {n}", "{month} {n}, {day}", "{day}, the {n} of {month}")


def letter(teller: Teller) -> str | None:
    """A letter or a page of a diary: a story told by the one to whom it happened."""
    who, other = teller.rng.sample(PEOPLE, 2)
    slots = {"who": who.name, "other": other.name, "weather": teller.pick(WEATHER[:4]), "day": teller.pick(DAYS)}
    slots |= {"month": teller.pick(MONTHS), "n": str(1 + int(teller.random() * 28))}
    story = make_story(teller, 3 + int(teller.random() * 7), narrator=True)
    if story is None:
        return None
    ending = end_story(story, teller)
    body = " ".join([*story.sentences, *([ending] if ending else [])])
    if teller.random() < 0.4:
        date = teller.tell(_DATES, slots)
        return f"{date}\n{body}" if date else None
    greeting, closing = teller.tell(_GREETINGS, slots), teller.tell(_CLOSINGS, slots)
    if any(p.name in (who.name, other.name) for p in story.people):
        return None
    return f"{greeting}\n{body}\n{closing}" if greeting and closing else None


def similar_things(teller: Teller) -> str | None:
    """What several people have of one kind, each in another colour, and who has which."""
    thing = teller.pick(THINGS)
    people = teller.rng.sample(PEOPLE, 3 + int(teller.random() * 4))
    colours = teller.rng.sample(COLOURS, len(people))
    lines: list[str] = []
    for person, colour in zip(people, colours):
        slots = {"who": person.name, "his": person.his, "thing": thing, "things": plural(thing), "colour": colour}
        slots |= {"a": with_article(f"{colour} {thing}")}
        line = teller.tell(_OWNS, slots)
        if line:
            lines.append(line)
            if teller.random() < 0.4:
                lines.extend(x for x in [teller.tell(_OWN_AGAIN, slots)] if x)
    return (" " if teller.random() < 0.7 else "\n").join(lines) if len(lines) >= 3 else None


_OWNS = (
    "{who}'s {thing} is {colour}.",
    "{who} has {a}.",
    "the {colour} {thing} belongs to {who}.",
    "of all the {things}, the {colour} one is {who}'s.",
    "{who} likes {colour} things and has {a}.",
    "the {thing} of {who} is {colour}.",
)
_OWN_AGAIN = (
    "what colour is {who}'s {thing}?",
    "so the one with the {colour} {thing} is {who}.",
    "if you see {a}, you know that it is {who}'s.",
    "who has the {colour} {thing}?",
    "{who} would never give {his} {colour} {thing} away.",
)
