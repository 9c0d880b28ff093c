"""Stories of two sentences, and a question about one of them.

A name never begins a story or an answer: after a space it is always the same token, which a small model finds again
within minutes; at the start of a text it is another one.
"""

from nanochat_pl.tasks.generated import Asked, GeneratedTask
from nanochat_pl.tiny_world.split import Teller
from nanochat_pl.tiny_world.world import COLOURS, PEOPLE, PLACES, THINGS, Person, with_article

_OWNED = (("had", "have"), ("found", "find"), ("lost", "lose"), ("saw", "see"), ("took", "take"))
_WENT = ("went", "walked", "ran")
_OPENERS = ("Today", "Yesterday", "One day", "Once")


class TinyStories(GeneratedTask):
    """Two people, each with a thing of some colour or on the way to some place: who, what, where, of which colour."""

    name = "tiny_stories"

    def ask(self, teller: Teller) -> Asked:
        people = teller.rng.sample(PEOPLE, 2)
        asked_for = int(teller.random() * 2)
        sentences, question, answer = (_things if teller.random() < 0.7 else _places)(teller, people, asked_for)
        return Asked(" ".join([teller.pick(_OPENERS), *sentences, question]), answer)


def _things(teller: Teller, people: list[Person], asked_for: int) -> tuple[list[str], str, str]:
    did, do = teller.pick(_OWNED)
    things, colours = teller.rng.sample(THINGS, 2), teller.rng.sample(COLOURS, 2)
    sentences = [
        f"{who.name} {did} {with_article(f'{colour} {thing}')}." for who, thing, colour in zip(people, things, colours)
    ]
    name, thing, colour = people[asked_for].name, things[asked_for], colours[asked_for]
    question, answer = teller.pick(
        (
            (f"Who {did} the {thing}?", f"It was {name}."),
            (f"What did {name} {do}?", f"It was {with_article(f'{colour} {thing}')}."),
            (f"What colour was the {thing}?", f"It was {colour}."),
        )
    )
    return sentences, question, answer


def _places(teller: Teller, people: list[Person], asked_for: int) -> tuple[list[str], str, str]:
    went, places = teller.pick(_WENT), teller.rng.sample(PLACES, 2)
    sentences = [f"{who.name} {went} {place.to}." for who, place in zip(people, places)]
    name, place = people[asked_for].name, places[asked_for]
    question, answer = teller.pick(
        (
            (f"Who {went} {place.to}?", f"It was {name}."),
            (f"Where did {name} go?", f"T{place.to[1:]}."),
        )
    )
    return sentences, question, answer
