"""Sums of numbers up to three digits, answered by calling the calculator."""

from nanochat_pl.tasks.generated import Asked, GeneratedTask, calculated, calls_tool, same_number
from nanochat_pl.tasks.task import Content
from nanochat_pl.tiny_world.split import Teller

_QUESTIONS = ("What is {a} {word} {b}?", "How much is {a} {word} {b}?", "Work out {a} {word} {b}.")
_SIGNS = (("+", "plus"), ("-", "minus"), ("*", "times"))


class TinySums(GeneratedTask):
    """Two numbers of one to three digits, added, subtracted or multiplied.

    Right is an answer that called the tool and names the result.
    """

    name = "tiny_sums"

    def ask(self, teller: Teller) -> Asked:
        sign, word = teller.pick(_SIGNS)
        a, b = _number(teller), _number(teller)
        if sign == "-" and a < b:
            a, b = b, a
        result = {"+": a + b, "-": a - b, "*": a * b}[sign]
        question = teller.pick(_QUESTIONS).format(a=a, b=b, word=word)
        return Asked(question, calculated(f"{a}{sign}{b}", str(result), f"It is {result}."))

    def evaluate(self, i: int, content: Content) -> bool:
        return calls_tool(content) and same_number(content, self.asked(i).answer)


def _number(teller: Teller) -> int:
    """Of one, two or three digits, as often each."""
    return int(teller.random() * teller.pick((10, 100, 1000)))
