"""Small word problems: what happens decides the sum, and the calculator works it out.

There are many ways to say it, so that a model which has seen few problems knows the form of an answer but not yet
every verb: what reinforcement learning can teach.
"""

from nanochat_pl.tasks.generated import Asked, GeneratedTask, calculated, same_number
from nanochat_pl.tiny_world.split import Teller
from nanochat_pl.tiny_world.tables import WORDINGS
from nanochat_pl.tiny_world.world import COUNTABLE, PEOPLE, counted, plural

W = WORDINGS["tiny_math"]
_FORMS = {"+": ("has", "gains"), "-": ("has", "losses"), "*": ("bags", "inside"), "/": ("has", "shares")}
_QUESTION = "How many {things} does {who} have now?"
_QUESTION_OF_SHARES = "How many {things} is one part?"


class TinyMath(GeneratedTask):
    """Somebody gets things, loses some, has bags of them or shares them; right is an answer that names the number."""

    name = "tiny_math"
    is_right = staticmethod(same_number)

    def ask(self, teller: Teller) -> Asked:
        sign = teller.pick("+-*/")
        a, b, c = _numbers(teller, sign)
        noun, bag = teller.pick(COUNTABLE), teller.pick(("bag", "box", "basket", "jar"))
        who, other = teller.rng.sample(PEOPLE, 2)
        first, then = _FORMS[sign]
        asked = _QUESTION_OF_SHARES if sign == "/" else _QUESTION
        question = " ".join((teller.pick(W[first]), teller.pick(W[then]), asked)).format(
            who=who.name, him=who.him, other=other.name, things=plural(noun), bag=bag, bags=plural(bag),
            a=a, b=b, a_things=counted(a, noun), b_things=counted(b, noun),
        )  # fmt: skip
        return Asked(question, calculated(f"{a}{sign}{b}", str(c), f"It is {counted(c, noun)}."))


def _numbers(teller: Teller, sign: str) -> tuple[int, int, int]:
    """Two numbers and their result: a whole one, and not below 0."""
    a, b = 2 + int(teller.random() * 98), 2 + int(teller.random() * 98)
    if sign == "+":
        return a, b, a + b
    if sign == "-":
        return max(a, b), min(a, b), abs(a - b)
    a, b = 2 + a % 9, 2 + b % 9
    return (a, b, a * b) if sign == "*" else (a * b, b, a)
