"""Questions about the facts of the tiny world. A held-out question asks in new words for a fact that others ask for."""

from nanochat_pl.tasks.generated import Asked, says_the_same, world_split
from nanochat_pl.tasks.task import Content, Task, question_and_answer
from nanochat_pl.tiny_world.facts import FAMILIES
from nanochat_pl.tiny_world.split import split_of
from nanochat_pl.tiny_world.world import capital
from nanochat_pl.tokenizers.chat import Message


class TinyFacts(Task):
    """Every question of every fact, each once."""

    name = "tiny_facts"

    def __init__(self, split: str = "train"):
        wanted = world_split(self.name, split)
        self._asked = [asked for fact in _facts() for asked in fact if _belongs(asked, fact) == wanted]

    def __len__(self) -> int:
        return len(self._asked)

    def conversation(self, i: int) -> list[Message]:
        self._check_index(i)
        return question_and_answer(*self._asked[i])

    def evaluate(self, i: int, content: Content) -> bool:
        self._check_index(i)
        return says_the_same(content, self._asked[i].answer)


def _facts() -> list[list[Asked]]:
    """For each fact the questions that ask for it."""
    return [
        [Asked(capital(q.format_map(row)), capital(family.answer.format_map(row)) + ".") for q in family.questions]
        for family in FAMILIES
        for row in family.rows
    ]


def _belongs(asked: Asked, fact: list[Asked]) -> str:
    """A fact of which all questions are held out would be taught by none: those are in training."""
    if all(split_of(other.question) == "val" for other in fact):
        return "train"
    return split_of(asked.question)
