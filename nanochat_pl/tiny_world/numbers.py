"""Documents of numbers: sums, counting, comparing, numbers in words, and word problems with their solutions."""

from nanochat_pl.tiny_world.split import Teller
from nanochat_pl.tiny_world.tables import WORDINGS
from nanochat_pl.tiny_world.world import COUNTABLE, DAYS, FOODS, NUMBER_WORDS, PEOPLE, PLACES, TIMES, counted, plural

W = WORDINGS["numbers"]
_SIGNS = (("+", "plus"), ("+", "plus"), ("-", "minus"), ("-", "minus"), ("*", "times"))
_WITH_SHOPS = ("shop", "market", "bakery", "farm", "village", "town", "station", "mill")
_SHOPS = tuple(place.at for place in PLACES if place.name in _WITH_SHOPS)


def sums(teller: Teller) -> str | None:
    """Sums in digits or in sentences, or as questions with answers."""
    limit = teller.pick((10, 20, 50, 100, 100))
    wanted = teller.number(4, 9)
    who, other = teller.pick(PEOPLE).name, teller.pick(PEOPLE).name
    style = teller.pick(("lines", "sentences", "questions", "questions"))
    slots = {"who": who, "other": other, "limit": str(limit), "room": f"room {teller.number(1, 40)}"}
    titled = who != other and (style == "lines" or teller.random() < 0.3)
    title = teller.tell(W["sum_titles"], slots) if titled else None
    told: list[str] = []
    for _ in range(2 * wanted):
        slots |= _sum(teller, limit) | {"who": teller.pick(PEOPLE).name}
        if style == "questions":
            ask = teller.tell(W["sum_asks"], slots)
            answer = teller.tell(W["sum_answers"], slots) if ask else None
            line = f"{ask} {answer}" if answer else None
        else:
            line = teller.tell(("{a} {sign} {b} = {c}",) if style == "lines" else W["sum_sentences"], slots)
        if line and line not in told:
            told.append(line)
        if len(told) == wanted:
            break
    body = ("\n" if style == "lines" or teller.random() < 0.5 else " ").join(told)
    return (f"{title}\n{body}" if title else body) if len(told) >= 4 else None


def _sum(teller: Teller, limit: int) -> dict[str, str]:
    sign, word = teller.pick(_SIGNS)
    first, count = (1, 12) if sign == "*" else (0, limit)
    a, b = teller.number(first, count), teller.number(first, count)
    if sign == "-":
        a, b = max(a, b), min(a, b)
    c = {"+": a + b, "-": a - b, "*": a * b}[sign]
    words = (NUMBER_WORDS[n] if max(a, b, c) <= 100 else str(n) for n in (a, b, c))
    return {"a": str(a), "b": str(b), "c": str(c), "sign": sign, "word": word, **dict(zip(("wa", "wb", "wc"), words))}


def counting(teller: Teller) -> str | None:
    """Counting up, down and in steps."""
    told = []
    for _ in range(teller.number(3, 4)):
        a, n = teller.number(0, 90), teller.number(4, 9)
        step = teller.pick((1, 1, 1, 2, 3, 5, 10))
        numbers = [a + step * i for i in range(n)]
        in_words = numbers[-1] <= 100 and teller.random() < 0.4
        row = [NUMBER_WORDS[i] if in_words else str(i) for i in numbers]
        slots = {"a": str(a), "b": str(numbers[-1]), "step": str(step)}
        slots |= {"row": ", ".join(row), "down": ", ".join(reversed(row))}
        slots |= {"who": teller.pick(PEOPLE).name, "other": teller.pick(PEOPLE).name}
        if slots["who"] != slots["other"]:
            kind = "step_counts" if step > 1 else "down_counts" if teller.random() < 0.3 else "counts"
            told.append(teller.tell(W[kind], slots))
    return teller.joined(told, 0.5, at_least=2)


def comparing(teller: Teller) -> str | None:
    """More and less, before and after, even and odd, half and double, digits and words."""
    told = []
    for _ in range(teller.number(4, 8)):
        small, n = teller.number(0, 200), teller.number(1, 99)
        diff = teller.number(1, 50)
        slots = {"small": str(small), "big": str(small + diff), "diff": str(diff), "n": str(n), "even": str(2 * n)}
        slots |= {"before": str(n - 1), "after": str(n + 1), "who": teller.pick(PEOPLE).name}
        slots |= {"word": NUMBER_WORDS[n], "word_before": NUMBER_WORDS[n - 1]}
        parity = "odd" if n % 2 else "even"
        slots |= {"parity": parity, "parity_number": f"an {parity} number"}
        told.append(teller.tell(W["compares" if teller.random() < 0.4 else "neighbours"], slots))
    return teller.joined(dict.fromkeys(told), 0.6)


def word_problems(teller: Teller) -> str | None:
    """Small stories about numbers of things, with the question and the sum that answers it."""
    number = teller.number(1, 3)
    problems = [_containers(teller) if teller.random() < 0.25 else _more_or_less(teller) for _ in range(number)]
    return "\n".join(filter(None, problems)) or None


def _more_or_less(teller: Teller) -> str | None:
    gain = teller.random() < 0.5
    a, b = teller.number(2, 28), teller.number(1, 20)
    if not gain:
        a, b = max(a, b), min(a, b)
    slots = _problem_slots(teller, a, b, a + b if gain else a - b) | {"sign": "+" if gain else "-"}
    return _solve(teller, slots, "have", "gain" if gain else "loss")


def _containers(teller: Teller) -> str | None:
    a, b = teller.number(2, 9), teller.number(2, 11)
    bag = teller.pick(("bag", "box", "basket", "jar", "bucket"))
    slots = _problem_slots(teller, a, b, a * b) | {"sign": "*", "bag": bag, "bags": counted(a, bag)}
    return _solve(teller, slots, "each", "inside")


def _solve(teller: Teller, slots: dict[str, str], first: str, second: str) -> str | None:
    parts = ((first, "today"), (second, "then"), ("how_many", "so"), ("solutions", "thus"))
    return teller.tell_all([(W[wordings], W[openers]) for wordings, openers in parts], slots)


def shopping(teller: Teller) -> str | None:
    """Buying things: a price times a number, and the change."""
    noun = teller.pick(tuple(FOODS))
    a, b = teller.number(2, 8), teller.number(2, 9)
    purse = a * b + teller.number(2, 40)
    slots = _problem_slots(teller, a, b, a * b) | {"thing": noun, "a_things": counted(a, noun)}
    slots |= {"purse": str(purse), "rest": str(purse - a * b)}
    parts = (("buys", "today"), ("prices", "there"), ("totals", "thus"), ("changes", "after"))
    return teller.tell_all([(W[wordings], W[openers]) for wordings, openers in parts], slots)


def _problem_slots(teller: Teller, a: int, b: int, c: int) -> dict[str, str]:
    noun = teller.pick(COUNTABLE)
    who, other = teller.rng.sample(PEOPLE, 2)
    return {
        "who": who.name,
        "him": who.him,
        "other": other.name,
        "things": plural(noun),
        "a": str(a),
        "b": str(b),
        "c": str(c),
        "a_things": counted(a, noun),
        "b_things": counted(b, noun),
        "c_things": counted(c, noun),
        "b_more": f"{b} more" if b > 1 else f"1 more {noun}",
        "at": teller.pick(PLACES).at,
        "shop": teller.pick(_SHOPS),
        "at2": teller.pick(PLACES).at,
        "day": teller.pick(DAYS),
        "time": teller.pick(TIMES),
    }
