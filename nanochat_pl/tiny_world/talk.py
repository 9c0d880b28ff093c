"""Documents made of facts: lessons, quizzes, conversations and notes."""

from nanochat_pl.tiny_world.facts import FAMILIES, Family
from nanochat_pl.tiny_world.split import Teller
from nanochat_pl.tiny_world.world import PEOPLE, TIMES, WEATHER

_FRAMES = (
    "{s}.",
    "{s}.",
    "{s}.",
    "{who} knows that {s}.",
    "{who} says that {s}.",
    "{who} learned that {s}.",
    "at school, {who} learned that {s}.",
    "did you know that {s}?",
    "{who} told {other} that {s}.",
    "as {who} knows, {s}.",
    "it is true that {s}.",
    "{who} remembers that {s}.",
    "in {who}'s book it says that {s}.",
    "remember that {s}.",
    "everybody in {who}'s class knows that {s}.",
    "{who} wrote down that {s}.",
    "{who} asked the teacher and heard that {s}.",
)
_TITLES = (
    "what {who} knows about {topic}",
    "{who}'s notes about {topic}",
    "a lesson about {topic} for {who}",
    "{who} and {other} learn about {topic}",
    "today {who} wants to tell {other} something about {topic}.",
    "at school, {who} and {other} are learning about {topic}.",
)
_ASKS = (
    "{q}",
    "{q}",
    "{who}, {q}",
    "tell me, {who}, {q}",
    "{who} asks: {q}",
    "{who} would like to know: {q}",
    "please tell {who}: {q}",
)
_REPLIES = (
    "{s}.",
    "{s}.",
    "it is {short}.",
    "the answer is {short}.",
    "{other} says: {s}.",
    "that is easy: {s}.",
    "I think that {s}.",
    "{other} answers that {s}.",
    "I know that {s}.",
    "the right answer is this: {s}.",
)
_CHAT_ASKS = (
    "{who}: {Q}",
    "{who}: Tell me, {other}, {q}",
    "{who}: {other}, {q}",
    "{who}: Now a new question: {q}",
    "{who}: Here is another one, {other}: {q}",
)
_CHAT_REPLIES = (
    "{other}: {S}.",
    "{other}: Of course, {s}.",
    "{other}: I know that {s}.",
    "{other}: I learned that {s}.",
    "{other}: My teacher says that {s}.",
    "{other}: That is easy, {s}.",
    "{other}: {Short}.",
    "{other}: {Short}, {who}.",
)
_CHAT_OPENS = (
    "{who}: Good {time}, {other}!",
    "{who}: Hello {other}, it is nice to see you on this {weather} {time}!",
    "{who}: Hi {other}, may I ask you something?",
    "{who}: What {weather} weather, {other}!",
    "{who}: {other}, do you have time this {time}?",
)
_CHAT_AGREES = (
    "{other}: Good {time}, {who}!",
    "{other}: Hello {who}, I am glad to see you!",
    "{other}: Hi {who}, what is it?",
    "{other}: Hi {who}, how are you this {time}?",
    "{other}: Hello {who}, ask me anything!",
)
_CHAT_THANKS = (
    "{who}: Thank you, {other}!",
    "{who}: You know a lot, {other}!",
    "{who}: Thanks, {other}, and have a good {time}!",
    "{who}: Goodbye, {other}, until tomorrow {time}!",
)


def lesson(teller: Teller) -> str | None:
    """Facts of one or two kinds in a row, each told once."""
    families = [teller.pick(FAMILIES)] if teller.random() < 0.7 else teller.rng.sample(FAMILIES, 2)
    who, other = _two(teller)
    parts = []
    title = None
    if teller.random() < 0.5:
        title = teller.tell(_TITLES, {"who": who, "other": other, "topic": " and ".join(f.topic for f in families)})
    rows = [(family, row) for family in families for row in teller.rng.sample(family.rows, min(len(family.rows), 7))]
    teller.rng.shuffle(rows)
    for family, row in rows[: 4 + int(teller.random() * 7)]:
        line = state(teller, family, row)
        if line:
            parts.append(line)
    separator = "\n" if teller.random() < 0.25 else " "
    body = separator.join(parts)
    return (f"{title}\n{body}" if title else body) if len(parts) >= 3 else None


def mixed_facts(teller: Teller) -> str | None:
    """Facts of all kinds."""
    wanted = 4 + int(teller.random() * 8)
    families = [teller.pick(FAMILIES) for _ in range(wanted)]
    lines = [state(teller, family, teller.pick(family.rows)) for family in families]
    told = list(dict.fromkeys(line for line in lines if line))
    return (" " if teller.random() < 0.6 else "\n").join(told) if len(told) >= 3 else None


def quiz(teller: Teller) -> str | None:
    """Questions and answers, one after the other or one pair a line."""
    pairs = _pairs(teller, _ASKS, _REPLIES, *_two(teller), wanted=3 + int(teller.random() * 6))
    if len(pairs) < 3:
        return None
    inner, outer = teller.pick(((" ", " "), (" ", "\n"), ("\n", "\n"), ("\n", "\n\n")))
    return outer.join(f"{question}{inner}{answer}" for question, answer in pairs)


def conversation(teller: Teller) -> str | None:
    """Two people, one of whom asks; a turn a line."""
    who, other = _two(teller)
    slots = {"who": who, "other": other, "time": teller.pick(TIMES), "weather": teller.pick(WEATHER[:4])}
    opening = [teller.tell(_CHAT_OPENS, slots), teller.tell(_CHAT_AGREES, slots)]
    pairs = _pairs(teller, _CHAT_ASKS, _CHAT_REPLIES, who, other, wanted=2 + int(teller.random() * 5))
    thanks = teller.tell(_CHAT_THANKS, slots)
    if not pairs or not all(opening):
        return None
    turns = [*opening, *(turn for pair in pairs for turn in pair), thanks]
    return "\n".join(turn for turn in turns if turn)


def state(teller: Teller, family: Family, row: dict[str, str]) -> str | None:
    """One fact as a sentence, plainly or told by somebody."""
    who, other = _two(teller)
    for _ in range(4):
        line = teller.pick(family.statements).format_map(row)
        told = teller.tell(_FRAMES, {"s": line, "who": who, "other": other})
        if told:
            return told
    return None


def _pairs(
    teller: Teller, asks: tuple[str, ...], replies: tuple[str, ...], who: str, other: str, wanted: int
) -> list[tuple[str, str]]:
    """Questions with their answers, no fact twice."""
    pairs: list[tuple[str, str]] = []
    seen = set()
    focus = teller.pick(FAMILIES) if teller.random() < 0.4 else None
    for _ in range(3 * wanted):
        family = focus or teller.pick(FAMILIES)
        row = teller.pick(family.rows)
        fact = (family.topic, id(row))
        if fact in seen or len(pairs) == wanted:
            continue
        slots = {"who": who, "other": other, "q": teller.pick(family.questions).format_map(row)}
        slots["short"] = family.answer.format_map(row)
        slots |= {"Q": _capital(slots["q"]), "Short": _capital(slots["short"])}
        slots["s"] = teller.pick(family.statements).format_map(row)
        slots["S"] = _capital(slots["s"])
        question = teller.tell(asks, slots)
        answer = teller.tell(replies, slots) if question else None
        if question and answer:
            seen.add(fact)
            pairs.append((question, answer))
    return pairs


def _capital(text: str) -> str:
    return text[0].upper() + text[1:]


def _two(teller: Teller) -> tuple[str, str]:
    who = teller.pick(PEOPLE).name
    other = teller.pick(PEOPLE).name
    while other == who:
        other = teller.pick(PEOPLE).name
    return who, other
