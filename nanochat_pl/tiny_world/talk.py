"""Documents made of facts: lessons, quizzes, conversations and notes."""

from collections.abc import Sequence

from nanochat_pl.tiny_world.facts import FAMILIES, Family, Row
from nanochat_pl.tiny_world.split import Teller
from nanochat_pl.tiny_world.tables import WORDINGS
from nanochat_pl.tiny_world.world import PEOPLE, TIMES, WEATHER, capital

W = WORDINGS["talk"]


def lesson(teller: Teller) -> str | None:
    """Facts of one or two kinds in a row, each told once."""
    families = [teller.pick(FAMILIES)] if teller.random() < 0.7 else teller.rng.sample(FAMILIES, 2)
    who, other = _two(teller)
    title = None
    if teller.random() < 0.5:
        title = teller.tell(W["titles"], {"who": who, "other": other, "topic": " and ".join(f.topic for f in families)})
    rows = [(family, row) for family in families for row in teller.rng.sample(family.rows, min(len(family.rows), 7))]
    teller.rng.shuffle(rows)
    parts = [line for family, row in rows[: teller.number(4, 7)] if (line := state(teller, family, row))]
    body = ("\n" if teller.random() < 0.25 else " ").join(parts)
    return (f"{title}\n{body}" if title else body) if len(parts) >= 3 else None


def mixed_facts(teller: Teller) -> str | None:
    """Facts of all kinds."""
    wanted = teller.number(4, 8)
    families = [teller.pick(FAMILIES) for _ in range(wanted)]
    lines = [state(teller, family, teller.pick(family.rows)) for family in families]
    return teller.joined(dict.fromkeys(lines), 0.6)


def quiz(teller: Teller) -> str | None:
    """Questions and answers, one after the other or one pair a line."""
    pairs = _pairs(teller, W["asks"], W["replies"], *_two(teller), wanted=teller.number(3, 6))
    if len(pairs) < 3:
        return None
    inner, outer = teller.pick(((" ", " "), (" ", "\n"), ("\n", "\n"), ("\n", "\n\n")))
    return outer.join(f"{question}{inner}{answer}" for question, answer in pairs)


def conversation(teller: Teller) -> str | None:
    """Two people, one of whom asks; a turn a line."""
    who, other = _two(teller)
    slots = {"who": who, "other": other, "time": teller.pick(TIMES), "weather": teller.pick(WEATHER[:4])}
    opening = [teller.tell(W["chat_opens"], slots), teller.tell(W["chat_agrees"], slots)]
    pairs = _pairs(teller, W["chat_asks"], W["chat_replies"], who, other, wanted=teller.number(2, 5))
    thanks = teller.tell(W["chat_thanks"], slots)
    if not pairs or not all(opening):
        return None
    turns = [*opening, *(turn for pair in pairs for turn in pair), thanks]
    return "\n".join(turn for turn in turns if turn)


def state(teller: Teller, family: Family, row: Row) -> str | None:
    """One fact as a sentence, plainly or told by somebody."""
    who, other = _two(teller)
    for _ in range(4):
        line = teller.pick(family.statements).format_map(row)
        if told := teller.tell(W["frames"], {"s": line, "who": who, "other": other}):
            return told
    return None


def _pairs(
    teller: Teller, asks: Sequence[str], replies: Sequence[str], who: str, other: str, wanted: int
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
        slots["s"] = teller.pick(family.statements).format_map(row)
        slots |= {"Q": capital(slots["q"]), "Short": capital(slots["short"]), "S": capital(slots["s"])}
        question = teller.tell(asks, slots)
        answer = teller.tell(replies, slots) if question else None
        if question and answer:
            seen.add(fact)
            pairs.append((question, answer))
    return pairs


def _two(teller: Teller) -> tuple[str, str]:
    who = teller.pick(PEOPLE).name
    other = teller.pick(PEOPLE).name
    while other == who:
        other = teller.pick(PEOPLE).name
    return who, other
