"""Documents of words and lists: spelling, letters, rows of things, plans for a week, riddles."""

from nanochat_pl.tiny_world.facts import CAPITALS, JOBS, KINDS, MATERIALS
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
    PEOPLE,
    PLACES,
    SIZES,
    THINGS,
    WEATHER,
    counted,
    listing,
    plural,
    with_article,
)

VOCABULARY = tuple(
    dict.fromkeys(
        word
        for word in (
            *(t for t in THINGS if " " not in t),
            *FOODS,
            *(a.name for a in ANIMALS),
            *(p.name for p in PLACES if " " not in p.name),
            *(*COLOURS, *SIZES, *DAYS, *MONTHS, *WEATHER, *KINDS, *MATERIALS, *JOBS, *NUMBER_WORDS[:20], *CAPITALS),
            *(p.name for p in PEOPLE),
        )
        if word.isalpha()
    )
)
"""The words that are spelled."""

_ALPHABET = "abcdefghijklmnopqrstuvwxyz"
_SPELLINGS = (
    "the word {word} is spelled {letters}.", "{word} is spelled {letters}.", "{who} spells {word}: {letters}.",
    "{letters} spells {word}.", "how do you spell {word}, {who}?", "{who} knows how to spell {word}: {letters}.",
    "spell {word} like this: {letters}.",
)  # fmt: skip
_LENGTHS = ("{word} has {n} letters.", "the word {word} has {n} letters.", "there are {n} letters in {word}.", "{who} counts {n} letters in {word}.",
            "if you count the letters of {word}, you get {n}.")  # fmt: skip
_ENDS = (
    "{word} begins with {first} and ends with {last}.", "the first letter of {word} is {first}.", "the last letter of {word} is {last}.",
    "{who} says that {word} begins with {first}.", "{word} ends with the letter {last}.", "letter number {k} of {word} is {kth}.",
)  # fmt: skip
_LETTER_COUNTS = (
    "the letter {x} is in {word} {times}.", "{word} contains the letter {x} {times}.", "{who} finds the letter {x} in {word} {times}.",
    "in {letters}, the letter {x} comes {times}, so {word} has it {times}.",
)  # fmt: skip
_BACKWARDS = ("backwards, {word} is {reversed}.", "{word} backwards is {reversed}.", "{who} writes {word} backwards: {reversed}.")
_ALPHABETS = ("after the letter {l} comes {m}.", "{l} comes before {m} in the alphabet.", "the letters from {l} to {q} are {run}.",
              "{who} says the letters from {l} on: {run}.", "letter number {nth} of the alphabet is {l}.")  # fmt: skip
_ORDERS = ("in the order of the alphabet: {sorted}.", "{who} puts {words} in order: {sorted}.", "in order, {words} are {sorted}.",
           "of {words}, the first in the alphabet is {least}.", "the longest of the words {words} is {longest}.")  # fmt: skip


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
    return teller.tell(teller.pick((_SPELLINGS[:4] + _SPELLINGS[5:], _LENGTHS, _ENDS, _LETTER_COUNTS, _BACKWARDS)), slots)


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


_LIST_TITLES = (
    "{who}'s {kind}", "{kind} for {who}", "{who} and {other}: {kind}", "{kind}, {day}", "{who} writes this list for {day}:", "{day}: {who}'s {kind}",
)  # fmt: skip
_ITEMS = {
    "shopping list": ("{n_food}", "{n_food}", "{n_food} for {who}", "{a_thing}"),
    "packing list": ("{a_thing}", "{n_count}", "{a_thing} for {who}"),
    "things to do": ("{chore}", "{chore} with {who}", "{chore} for {who}", "give {a_thing} to {who}"),
    "birthday presents": ("{a_thing} for {who}", "{who}: {a_thing}", "{n_count} for {who}"),
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
            "thing": f"{colour} {thing}",
            "a_thing": with_article(f"{colour} {thing}"),
            "chore": chore,
        }
        body = teller.pick(_ITEMS[kind]).format_map(slots)
        line = f"{len(items) + 1}. {body}" if mark == "number" else f"{mark}{body}"
        # The number is a sentence of its own to whoever splits at full stops.
        if body not in used and teller.fits(line):
            used.add(body)
            items.append(line)
        if len(items) == wanted:
            break
    return "\n".join([title, *items]) if title and len(items) >= 3 else None


_PLANS = (
    "on {day}, {who} {does}.", "{who} {does} on {day}.", "{day} is the day when {who} {does}.", "every {day}, {who} {does}.",
    "when it is {day}, {who} {does}.", "it is {day}, so {who} {does}.",
)  # fmt: skip


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
    "I have {legs} legs and say {sound}, {who}.", "my home is {home}, and I say {sound}, {who}.", "{who}, I like to {moves} and I eat {food}.",
    "I eat {food} and my child is called {young}, {who}.", "my young is {young}, {who}, and I have {legs} legs.",
    "{who}, {sound} is what I say and {food} is what I eat.",
)  # fmt: skip
_RIDDLE_ASKS = ("what am I, {other}?", "who am I, {other}?", "{other}, can you guess what I am?", "guess what I am, {other}!")
_RIDDLE_ANSWERS = ("{other} says: you are {an}.", "you are {an}, {who}!", '"It is {an}," said {other}.', "{an} is the answer that {other} gave.",
                   "{other} knows that it is {an}.")  # fmt: skip


def riddles(teller: Teller) -> str | None:
    """Animals described by what is true of them, to be guessed."""
    told = []
    for animal in teller.rng.sample(ANIMALS, 2 + int(teller.random() * 3)):
        who, other = teller.rng.sample(PEOPLE, 2)
        home = "the mountains" if animal.home == "mountains" else with_article(animal.home)
        slots = {"who": who.name, "other": other.name, "legs": NUMBER_WORDS[animal.legs] if animal.legs else "no", "home": home}
        slots |= {"sound": animal.sound, "moves": animal.moves, "food": animal.food, "young": with_article(animal.young)}
        slots["an"] = with_article(animal.name)
        lines = [teller.tell(wordings, slots) for wordings in (_RIDDLES, _RIDDLE_ASKS, _RIDDLE_ANSWERS)]
        if all(lines):
            told.append(" ".join(line for line in lines if line))
    return "\n".join(told) if told else None


_GREETINGS = ("dear {other}, how are you on this {weather} {day}?", "dear {other}, I hope that you are well.", "hello {other}, here is a letter from {who}.",
              "dear {other}, today is {day} and the weather is {weather}.", "dear {other}, thank you for your letter of {day}!")  # fmt: skip
_CLOSINGS = ("your friend {who}", "love from {who}", "see you on {day}, {who}", "please write back soon, {who}", "yours, {who}", "best wishes to you all, {who}")
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


_OWNS = ("{who}'s {thing} is {colour}.", "{who} has {a}.", "the {colour} {thing} belongs to {who}.", "of all the {things}, the {colour} one is {who}'s.",
         "{who} likes {colour} things and has {a}.", "the {thing} of {who} is {colour}.")  # fmt: skip
_OWN_AGAIN = ("what colour is {who}'s {thing}?", "so the one with the {colour} {thing} is {who}.", "if you see {a}, you know that it is {who}'s.",
              "who has the {colour} {thing}?", "{who} would never give {his} {colour} {thing} away.")  # fmt: skip
