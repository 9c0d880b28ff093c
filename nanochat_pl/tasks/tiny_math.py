"""Small word problems: what happens decides the sum, and the calculator works it out."""

from nanochat_pl.tasks.generated import Asked, GeneratedTask, calculated
from nanochat_pl.tasks.task import Content, last_number, text_said
from nanochat_pl.tiny_world.split import Teller
from nanochat_pl.tiny_world.world import COUNTABLE, PEOPLE, counted, plural

_HAS = ("{who} has {a_things}.", "{who} counts {a_things}.", "{who} buys {a_things}.")
_GAINS = (
    "{who} gets {b} more.",
    "{who} finds {b} more.",
    "{other} gives {him} {b} more.",
    "{other} brings {b} more.",
)
_LOSSES = (
    "{who} loses {b} of them.",
    "{who} gives {b} of them to {other}.",
    "{other} takes {b} of them.",
    "{who} drops {b} of them.",
)
_BAGS = ("{who} has {a} bags.", "{who} fills {a} bags.", "{who} buys {a} bags.")
_INSIDE = ("In each bag there are {b_things}.", "Each bag holds {b_things}.", "There are {b_things} in every bag.")
_QUESTION = "How many {things} does {who} have now?"


class TinyMath(GeneratedTask):
    """Somebody has things, and then more, or fewer, or bags of them; right is an answer that names their number."""

    name = "tiny_math"

    def ask(self, teller: Teller) -> Asked:
        sign = teller.pick("+-*")
        a, b = 2 + int(teller.random() * 98), 2 + int(teller.random() * 98)
        if sign == "*":
            a, b = 2 + a % 9, 2 + b % 11
        if a < b and sign == "-":
            a, b = b, a
        c = {"+": a + b, "-": a - b, "*": a * b}[sign]
        noun = teller.pick(COUNTABLE)
        who, other = teller.rng.sample(PEOPLE, 2)
        first, then = {"+": (_HAS, _GAINS), "-": (_HAS, _LOSSES), "*": (_BAGS, _INSIDE)}[sign]
        question = " ".join((teller.pick(first), teller.pick(then), _QUESTION)).format(
            who=who.name, him=who.him, other=other.name, things=plural(noun),
            a=a, b=b, a_things=counted(a, noun), b_things=counted(b, noun),
        )  # fmt: skip
        return Asked(question, calculated(f"{a}{sign}{b}", str(c), f"{who.name} has {counted(c, noun)}."))

    def evaluate(self, i: int, content: Content) -> bool:
        right = last_number(text_said(self.asked(i).answer))
        return last_number(text_said(content)) == right
