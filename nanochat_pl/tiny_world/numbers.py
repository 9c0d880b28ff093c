"""Documents of numbers: sums, counting, comparing, numbers in words, and word problems with their solutions."""

from nanochat_pl.tiny_world.split import Teller
from nanochat_pl.tiny_world.world import COUNTABLE, DAYS, FOODS, NUMBER_WORDS, PEOPLE, PLACES, TIMES, counted, plural

_SUM_LINES = ("{a} {sign} {b} = {c}",)
_SUM_SENTENCES = (
    "{a} {sign} {b} = {c}.",
    "{a} {word} {b} is {c}.",
    "{a} {word} {b} makes {c}.",
    "the answer to {a} {word} {b} is {c}.",
    "{who} works out {a} {word} {b} and gets {c}.",
    "if you work out {a} {word} {b}, you get {c}.",
    "{who} knows that {a} {word} {b} is {c}.",
    "{wa} {word} {wb} is {wc}.",
    "{who} writes {a} {sign} {b} = {c} on the board.",
)
_SUM_ASKS = (
    "what is {a} {word} {b}?",
    "how much is {a} {word} {b}?",
    "{who}, what is {a} {word} {b}?",
    "{a} {sign} {b} = ?",
    "can you work out {a} {word} {b}, {who}?",
    "what do you get for {a} {sign} {b}?",
)
_SUM_ANSWERS = (
    "{a} {word} {b} is {c}.",
    "it is {c}, because {a} {sign} {b} = {c}.",
    "{a} {sign} {b} = {c}.",
    "the answer is {c}.",
    "{who} says: {c}.",
    "{who} gets {c}.",
    "that makes {c}.",
    "{who} counts and finds {c}.",
)
_SUM_TITLES = (
    "{who}'s sums",
    "sums for {who}",
    "{who} and {other} practise sums",
    "sums up to {limit} for {who}",
    "homework for {who}",
    "{who}'s homework in {room}",
)
_COUNTS = (
    "{who} counts from {a} to {b}: {row}.",
    "count from {a} to {b}: {row}.",
    "from {a} to {b}: {row}.",
    "{who} starts at {a} and counts to {b}: {row}.",
    "{row}: that is how {who} counts from {a} to {b}.",
    "{who} and {other} count together: {row}.",
)
_STEP_COUNTS = (
    "{who} counts in steps of {step}: {row}.",
    "starting at {a} and adding {step} each time, {who} says: {row}.",
    "in steps of {step} from {a} to {b}: {row}.",
)
_DOWN_COUNTS = (
    "{who} counts down from {b} to {a}: {down}.",
    "counting backwards from {b}: {down}.",
    "backwards, {who} says: {down}.",
)
_COMPARES = (
    "{big} is more than {small}.",
    "{small} is less than {big}.",
    "{who} knows that {big} is greater than {small}.",
    "between {small} and {big}, {big} is the greater number.",
    "{big} is {diff} more than {small}.",
    "{small} is {diff} less than {big}.",
    "of {small} and {big}, {who} chooses the smaller number, which is {small}.",
)
_NEIGHBOURS = (
    "after {n} comes {after}.",
    "before {n} comes {before}.",
    "{n} lies between {before} and {after}.",
    "{n} is {parity}.",
    "{who} says that {n} is {parity_number}.",
    "half of {even} is {n}.",
    "twice {n} is {even}.",
    "the double of {n} is {even}.",
    "the number {n} is written {word}.",
    "in words, {n} is {word}.",
    "{word} is {n}.",
    "{who} writes {n} as {word}.",
    "{word} comes after {word_before}.",
)
_SIGNS = (("+", "plus"), ("+", "plus"), ("-", "minus"), ("-", "minus"), ("*", "times"))


def sums(teller: Teller) -> str | None:
    """Sums in digits or in sentences, or as questions with answers."""
    limit = teller.pick((10, 20, 50, 100, 100))
    wanted = 4 + int(teller.random() * 9)
    who, other = teller.pick(PEOPLE).name, teller.pick(PEOPLE).name
    style = teller.pick(("lines", "sentences", "questions", "questions"))
    slots = {"who": who, "other": other, "limit": str(limit), "room": f"room {1 + int(teller.random() * 40)}"}
    title = teller.tell(_SUM_TITLES, slots) if who != other and (style == "lines" or teller.random() < 0.3) else None
    told: list[str] = []
    for _ in range(2 * wanted):
        slots |= _sum(teller, limit) | {"who": teller.pick(PEOPLE).name}
        if style == "questions":
            ask = teller.tell(_SUM_ASKS, slots)
            answer = teller.tell(_SUM_ANSWERS, slots) if ask else None
            line = f"{ask} {answer}" if answer else None
        else:
            line = teller.tell(_SUM_LINES if style == "lines" else _SUM_SENTENCES, slots)
        if line and line not in told:
            told.append(line)
        if len(told) == wanted:
            break
    separator = "\n" if style == "lines" or teller.random() < 0.5 else " "
    body = separator.join(told)
    return (f"{title}\n{body}" if title else body) if len(told) >= 4 else None


def _sum(teller: Teller, limit: int) -> dict[str, str]:
    sign, word = teller.pick(_SIGNS)
    if sign == "*":
        a, b = 1 + int(teller.random() * 12), 1 + int(teller.random() * 12)
        c = a * b
    else:
        a, b = int(teller.random() * limit), int(teller.random() * limit)
        if sign == "-" and a < b:
            a, b = b, a
        c = a + b if sign == "+" else a - b
    in_words = max(a, b, c) <= 100
    slots = {"a": str(a), "b": str(b), "c": str(c), "sign": sign, "word": word}
    words = (NUMBER_WORDS[n] if in_words else str(n) for n in (a, b, c))
    return slots | dict(zip(("wa", "wb", "wc"), words))


def counting(teller: Teller) -> str | None:
    """Counting up, down and in steps."""
    told = []
    for _ in range(3 + int(teller.random() * 4)):
        a, n = int(teller.random() * 90), 4 + int(teller.random() * 9)
        step = teller.pick((1, 1, 1, 2, 3, 5, 10))
        numbers = [a + step * i for i in range(n)]
        in_words = numbers[-1] <= 100 and teller.random() < 0.4
        row = [NUMBER_WORDS[i] if in_words else str(i) for i in numbers]
        slots = {
            "a": str(a),
            "b": str(numbers[-1]),
            "step": str(step),
            "row": ", ".join(row),
            "down": ", ".join(reversed(row)),
        }
        slots |= {"who": teller.pick(PEOPLE).name, "other": teller.pick(PEOPLE).name}
        if slots["who"] == slots["other"]:
            continue
        wordings = _STEP_COUNTS if step > 1 else _DOWN_COUNTS if teller.random() < 0.3 else _COUNTS
        told.append(teller.tell(wordings, slots))
    lines = [line for line in told if line]
    return (" " if teller.random() < 0.5 else "\n").join(lines) if len(lines) >= 2 else None


def comparing(teller: Teller) -> str | None:
    """More and less, before and after, even and odd, half and double, digits and words."""
    told = []
    for _ in range(4 + int(teller.random() * 8)):
        small, n = int(teller.random() * 200), 1 + int(teller.random() * 99)
        diff = 1 + int(teller.random() * 50)
        slots = {"small": str(small), "big": str(small + diff), "diff": str(diff), "n": str(n), "even": str(2 * n)}
        slots |= {
            "before": str(n - 1),
            "after": str(n + 1),
            "parity": "odd" if n % 2 else "even",
            "who": teller.pick(PEOPLE).name,
        }
        slots |= {"parity_number": "an odd number" if n % 2 else "an even number", "word": NUMBER_WORDS[n]}
        slots["word_before"] = NUMBER_WORDS[n - 1]
        told.append(teller.tell(_COMPARES if teller.random() < 0.4 else _NEIGHBOURS, slots))
    lines = list(dict.fromkeys(line for line in told if line))
    return (" " if teller.random() < 0.6 else "\n").join(lines) if len(lines) >= 3 else None


_SHOPS = tuple(
    p.at for p in PLACES if p.name in ("shop", "market", "bakery", "farm", "village", "town", "station", "mill")
)
_TODAY = ("", "", "", "", "today ", "on {day}, ", "one {day}, ", "this {time}, ", "in the {time}, ", "look, ")
_THEN = ("", "", "", "", "then ", "later, ", "after a while, ", "the next day, ", "on {day}, ", "in the {time}, ")
_SO = ("", "", "", "", "now, ", "so ", "and ", "well, ", "here is the question: ", "who can say it: ")
_THUS = ("", "", "", "", "so ", "yes, ", "well, ", "that is easy: ", "in the end, ", "{other} says: ")
_THERE = ("", "", "", "", "today ", "on {day}, ", "this week, ", "there, ", "in this place, ", "{other} says that ")
_AFTER = ("", "", "", "", "after that, ", "and ", "then, ", "in the end, ", "{other} says: ", "at home, ")

_HAVE = (
    "{who} has {a_things}.",
    "there are {a_things} in {who}'s bag.",
    "{who} counts {a_things} on the table.",
    "{who} bought {a_things} {shop}.",
    "{who} has found {a_things} {at}.",
)
_GAIN = (
    "{other} gives {him} {b_more}.",
    "{who} gets {b_more} from {other}.",
    "{who} finds {b_more} {at2}.",
    "{who} buys {b_more} {shop}.",
    "{other} has {b_more} for {who}.",
)
_LOSS = (
    "{who} gives {b} of them to {other}.",
    "{other} takes {b} of them from {who}.",
    "{who} loses {b} of them {at2}.",
    "{who} drops {b} of them on the way home.",
    "{who} shares and gives {other} {b} of them.",
)
_HOW_MANY = (
    "how many {things} does {who} have now?",
    "how many {things} are there now, {other}?",
    "{who} asks: how many {things} do I have?",
    "how many {things} is that, {other}?",
)
_SOLUTIONS = (
    "{a} {sign} {b} = {c}, so {who} has {c_things}.",
    "{who} has {c_things}, because {a} {sign} {b} = {c}.",
    "we work out {a} {sign} {b} = {c}: {who} has {c_things}.",
    "the answer is {c_things}, since {a} {sign} {b} = {c}.",
)
_EACH = (
    "{who} has {bags}.",
    "there are {bags} on {who}'s table.",
    "{who} carries {bags} home.",
    "{who} fills {bags} {at}.",
)
_INSIDE = (
    "in each {bag} there are {b_things}.",
    "{who} puts {b_things} into each {bag}.",
    "every {bag} holds {b_things}.",
    "{other} counts {b_things} in every {bag}.",
)


def word_problems(teller: Teller) -> str | None:
    """Small stories about numbers of things, with the question and the sum that answers it."""
    problems = []
    for _ in range(1 + int(teller.random() * 3)):
        problem = _containers(teller) if teller.random() < 0.25 else _more_or_less(teller)
        if problem:
            problems.append(problem)
    return "\n".join(problems) or None


def _more_or_less(teller: Teller) -> str | None:
    gain = teller.random() < 0.5
    a, b = 2 + int(teller.random() * 28), 1 + int(teller.random() * 20)
    if not gain and b > a:
        a, b = b, a
    c = a + b if gain else a - b
    slots = _problem_slots(teller, a, b, c) | {"sign": "+" if gain else "-"}
    return _solve(teller, slots, _HAVE, _GAIN if gain else _LOSS)


def _containers(teller: Teller) -> str | None:
    a, b = 2 + int(teller.random() * 9), 2 + int(teller.random() * 11)
    bag = teller.pick(("bag", "box", "basket", "jar", "bucket"))
    slots = _problem_slots(teller, a, b, a * b) | {"sign": "*", "bag": bag, "bags": counted(a, bag)}
    return _solve(teller, slots, _EACH, _INSIDE)


def _problem_slots(teller: Teller, a: int, b: int, c: int) -> dict[str, str]:
    noun = teller.pick(COUNTABLE)
    who, other = teller.rng.sample(PEOPLE, 2)
    slots = {
        "who": who.name,
        "him": who.him,
        "other": other.name,
        "things": plural(noun),
        "a": str(a),
        "b": str(b),
        "c": str(c),
    }
    slots |= {"a_things": counted(a, noun), "b_things": counted(b, noun), "c_things": counted(c, noun)}
    slots["b_more"] = f"{b} more" if b > 1 else f"1 more {noun}"
    return slots | {
        "at": teller.pick(PLACES).at,
        "shop": teller.pick(_SHOPS),
        "at2": teller.pick(PLACES).at,
        "day": teller.pick(DAYS),
        "time": teller.pick(TIMES),
    }


def _solve(teller: Teller, slots: dict[str, str], first: tuple[str, ...], second: tuple[str, ...]) -> str | None:
    parts = ((first, _TODAY), (second, _THEN), (_HOW_MANY, _SO), (_SOLUTIONS, _THUS))
    lines = [teller.tell(wordings, slots, openers) for wordings, openers in parts]
    return " ".join(line for line in lines if line) if all(lines) else None


_BUYS = (
    "{who} buys {a_things} {shop}.",
    "{who} wants {a_things}.",
    "{who} takes {a_things} to the till.",
    "{who} asks for {a_things}.",
)
_PRICES = (
    "one {thing} costs {b} coins.",
    "each {thing} costs {b} coins.",
    "the price of one {thing} is {b} coins.",
    "{who} pays {b} coins for each {thing}.",
)
_TOTALS = (
    "{a} * {b} = {c}, so {who} pays {c} coins.",
    "together they cost {c} coins, because {a} * {b} = {c}.",
    "{who} pays {c} coins, since {a} * {b} = {c}.",
)
_CHANGES = (
    "{who} has {purse} coins and keeps {rest}, because {purse} - {c} = {rest}.",
    "{purse} - {c} = {rest}, so {rest} of {who}'s {purse} coins are left.",
    "of {purse} coins, {who} has {rest} left, since {purse} - {c} = {rest}.",
)


def shopping(teller: Teller) -> str | None:
    """Buying things: a price times a number, and the change."""
    noun = teller.pick(tuple(FOODS))
    a, b = 2 + int(teller.random() * 8), 2 + int(teller.random() * 9)
    purse = a * b + 2 + int(teller.random() * 40)
    slots = _problem_slots(teller, a, b, a * b) | {"thing": noun, "a_things": counted(a, noun)}
    slots |= {"purse": str(purse), "rest": str(purse - a * b)}
    parts = ((_BUYS, _TODAY), (_PRICES, _THERE), (_TOTALS, _THUS), (_CHANGES, _AFTER))
    lines = [teller.tell(wordings, slots, openers) for wordings, openers in parts]
    return " ".join(line for line in lines if line) if all(lines) else None
