"""Stories of two sentences, and a question about what happened in them.

Made for models that learn for minutes: every answer has its own role in the story, and a name never begins a story or
an answer, since it is one token after a space and another one at the start of a text.
"""

from nanochat_pl.tasks.generated import Asked, GeneratedTask
from nanochat_pl.tiny_world.split import Teller
from nanochat_pl.tiny_world.world import COLOURS, PEOPLE, PLACES, SPOTS, THINGS, capital, with_article

_OPENERS = ("Today", "Yesterday", "One day", "Once")
_VERBS = (("found", "find"), ("bought", "buy"), ("got", "get"), ("won", "win"))
_THEN = ("Then", "Later", "After that", "In the evening")


class TinyStories(GeneratedTask):
    """Somebody comes by a thing somewhere, and gives it away or puts it down: who, what, where, of which colour."""

    name = "tiny_stories"

    def ask(self, teller: Teller) -> Asked:
        who, other = teller.rng.sample(PEOPLE, 2)
        colour, thing, place = teller.pick(COLOURS), teller.pick(THINGS), teller.pick(PLACES)
        did, do = teller.pick(_VERBS)
        a_thing = with_article(f"{colour} {thing}")
        asked = [
            (f"Who {did} the {thing}?", f"It was {who.name}."),
            (f"What did {who.name} {do}?", f"It was {a_thing}."),
            (f"What colour was the {thing}?", f"It was {colour}."),
            (f"Where did {who.name} {do} it?", f"{capital(place.at)}."),
        ]
        if teller.random() < 0.5:
            after = f"gave it to {other.name}"
            asked.append((f"Who has the {thing} now?", f"It is {other.name}."))
        else:
            spot = teller.pick(SPOTS).in_
            after = f"put it {spot}"
            asked.append((f"Where is the {thing} now?", f"{capital(spot)}."))
        question, answer = teller.pick(asked)
        story = f"{teller.pick(_OPENERS)} {who.name} {did} {a_thing} {place.at}. {teller.pick(_THEN)} {who.he} {after}."
        return Asked(f"{story} {question}", answer)
