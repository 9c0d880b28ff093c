"""Stories of two sentences, and a question about one of them."""

from typing import NamedTuple

from nanochat_pl.tasks.generated import Asked, GeneratedTask
from nanochat_pl.tiny_world.split import Teller
from nanochat_pl.tiny_world.world import COLOURS, PEOPLE, PLACES, THINGS, with_article


class _Told(NamedTuple):
    """A sentence of a story: who did what with which thing where."""

    who: str
    did: str
    do: str
    colour: str
    thing: str
    at: str

    @property
    def sentence(self) -> str:
        return f"{self.who} {self.did} {with_article(f'{self.colour} {self.thing}')} {self.at}."


_VERBS = (("had", "have"), ("found", "find"), ("lost", "lose"), ("saw", "see"))


class TinyStories(GeneratedTask):
    """Two people, each with a thing of some colour at some place: who, what, where, and of which colour."""

    name = "tiny_stories"

    def ask(self, teller: Teller) -> Asked:
        rng = teller.rng
        verbs = [teller.pick(_VERBS)] * 2
        people, things = rng.sample(PEOPLE, 2), rng.sample(THINGS, 2)
        colours, places = rng.sample(COLOURS, 2), rng.sample(PLACES, 2)
        told = [_Told(people[n].name, *verbs[n], colours[n], things[n], places[n].at) for n in range(2)]
        question, answer = _asks(teller, teller.pick(told))
        return Asked(" ".join([*(each.sentence for each in told), question]), answer)


def _asks(teller: Teller, told: _Told) -> tuple[str, str]:
    who, did, do, colour, thing, at = told
    return teller.pick(
        (
            (f"Who {did} the {thing}?", f"{who} {did} the {thing}."),
            (f"What did {who} {do}?", f"{who} {did} {with_article(f'{colour} {thing}')}."),
            (f"Where was {who}?", f"{who} was {at}."),
            (f"What colour was the {thing}?", f"The {thing} was {colour}."),
        )
    )
