"""Stories: what happens is decided first, as events on a small state of who has what and is where, then it is worded.

The state makes the story true to itself: a thing keeps its colour, is in one place at a time, and only who has it
gives it away. `Story.events` and `Story.has` answer questions about the story.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import NamedTuple

from nanochat_pl.tiny_world import wordings as W
from nanochat_pl.tiny_world.split import Teller
from nanochat_pl.tiny_world.world import (
    COLOURS,
    NARRATOR,
    PEOPLE,
    PET_COLOURS,
    PET_NAMES,
    PETS,
    PLACES,
    SIZES,
    SPOTS,
    THING_USES,
    THINGS,
    TIMES,
    WEATHER,
    Person,
    Place,
    Spot,
    listing,
    with_article,
)


class Thing(NamedTuple):
    """A thing of a story: no two of one story have the same noun."""

    noun: str
    colour: str
    size: str

    @property
    def phrase(self) -> str:
        """`small red ball`; the size may be unset."""
        return f"{self.size} {self.colour} {self.noun}" if self.size else f"{self.colour} {self.noun}"


class Event(NamedTuple):
    """Something that happened: `kind` is a key of wordings.EVENTS; what does not apply is None."""

    kind: str
    who: Person
    thing: Thing | None = None
    other: Person | None = None
    other_thing: Thing | None = None
    place: Place | None = None
    spot: Spot | None = None


@dataclass
class Story:
    """A story under way: the state after the events so far, and a sentence for each of them."""

    people: list[Person]
    place: Place
    has: dict[Person, list[Thing]]
    at: dict[Person, Place]
    lying: dict[Thing, tuple[Place, Spot]] = field(default_factory=dict)
    lost: dict[Thing, tuple[Person, Place]] = field(default_factory=dict)
    events: list[Event] = field(default_factory=list)
    sentences: list[str] = field(default_factory=list)
    nouns: set[str] = field(default_factory=set)
    last_subject: Person | None = None


def make_story(teller: Teller, length: int, narrator: bool = False) -> Story | None:
    """A story of about `length` sentences, told by "I" if `narrator`; None where it could not begin in this split."""
    rng = teller.rng
    people = rng.sample(PEOPLE, 2 + (teller.random() < 0.4))
    if narrator:
        people[0] = NARRATOR
    place = teller.pick(PLACES)
    story = Story(people, place, {p: [] for p in people}, dict.fromkeys(people, place))
    if not _begin(story, teller):
        return None
    tries = 0
    while len(story.sentences) < length and tries < 60 * length:
        tries += 1
        teller.pick(_STEPS)(story, teller)
    return story if len(story.sentences) >= min(length, 4) else None


def end_story(story: Story, teller: Teller) -> str | None:
    """A last sentence that says where things are now."""
    owners = [p for p in story.people if story.has[p]]
    if not owners:
        return None
    who = teller.pick(owners)
    slots = {
        **_person_slots(who),
        "things": listing([_the(t) for t in story.has[who]]),
        "at": story.at[who].at,
        "time": teller.pick(TIMES),
    }
    return teller.tell(W.ENDINGS, slots)


def _begin(story: Story, teller: Teller) -> bool:
    people = story.people
    for _ in range(8):
        slots = {
            "names": listing([p.name for p in reversed(people)]),
            "who": people[0].name,
            "others": listing([p.name for p in people[1:]]),
            "at": story.place.at,
            "to": story.place.to,
            "weather": with_article(teller.pick(WEATHER)),
            "bare_weather": teller.pick(WEATHER),
            "time": teller.pick(TIMES),
        }
        line = teller.tell(W.BEGINNINGS if people[0] is not NARRATOR else W.NARRATOR_BEGINNINGS, slots)
        if line:
            break
    else:
        return False
    story.sentences.append(line)
    for person in people:
        for _ in range(6):
            if (person is not people[-1] or teller.random() < 0.7) and _own(story, teller, person):
                break
    return bool(story.nouns)


def _own(story: Story, teller: Teller, who: Person) -> bool:
    return _happen(story, teller, Event("own", who, _new_thing(story, teller)))


def _new_thing(story: Story, teller: Teller) -> Thing:
    noun = teller.pick(THINGS)
    while noun in story.nouns:
        noun = teller.pick(THINGS)
    return Thing(noun, teller.pick(COLOURS), teller.pick(SIZES) if teller.random() < 0.3 else "")


def _go(story: Story, teller: Teller) -> bool:
    who, place = teller.pick(story.people), teller.pick(PLACES)
    if place == story.at[who]:
        return False
    carried = teller.pick(story.has[who]) if story.has[who] and teller.random() < 0.5 else None
    return _happen(story, teller, Event("carry" if carried else "go", who, carried, place=place))


def _follow(story: Story, teller: Teller) -> bool:
    who, other = teller.rng.sample(story.people, 2)
    if story.at[who] == story.at[other]:
        return False
    return _happen(story, teller, Event("follow", who, other=other, place=story.at[other]))


def _find(story: Story, teller: Teller) -> bool:
    who = teller.pick(story.people)
    if len(story.nouns) >= 6:
        return False
    return _happen(story, teller, Event("find", who, _new_thing(story, teller), place=story.at[who]))


def _give(story: Story, teller: Teller) -> bool:
    who, other = teller.rng.sample(story.people, 2)
    if not story.has[who] or story.at[who] != story.at[other]:
        return False
    return _happen(story, teller, Event("give", who, teller.pick(story.has[who]), other))


def _trade(story: Story, teller: Teller) -> bool:
    who, other = teller.rng.sample(story.people, 2)
    if not story.has[who] or not story.has[other] or story.at[who] != story.at[other]:
        return False
    event = Event("trade", who, teller.pick(story.has[who]), other, teller.pick(story.has[other]))
    return _happen(story, teller, event)


def _put(story: Story, teller: Teller) -> bool:
    who = teller.pick(story.people)
    if not story.has[who]:
        return False
    return _happen(story, teller, Event("put", who, teller.pick(story.has[who]), spot=teller.pick(SPOTS)))


def _take(story: Story, teller: Teller) -> bool:
    if not story.lying:
        return False
    thing, (place, spot) = teller.pick(list(story.lying.items()))
    here = [p for p in story.people if story.at[p] == place]
    return bool(here) and _happen(story, teller, Event("take", teller.pick(here), thing, spot=spot))


def _lose(story: Story, teller: Teller) -> bool:
    who = teller.pick(story.people)
    if not story.has[who] or story.lost:
        return False
    return _happen(story, teller, Event("lose", who, teller.pick(story.has[who]), place=story.at[who]))


def _return(story: Story, teller: Teller) -> bool:
    if not story.lost:
        return False
    thing, (owner, place) = next(iter(story.lost.items()))
    others = [p for p in story.people if p is not owner]
    return _happen(story, teller, Event("return", teller.pick(others), thing, owner, place=place))


def _use(story: Story, teller: Teller) -> bool:
    who = teller.pick(story.people)
    return bool(story.has[who]) and _happen(story, teller, Event("use", who, teller.pick(story.has[who])))


def _talk(story: Story, teller: Teller) -> bool:
    who, other = teller.rng.sample(story.people, 2)
    if story.at[who] != story.at[other] or not story.has[other] or NARRATOR in (who, other):
        return False
    thing = teller.pick(story.has[other])
    kind = teller.pick(("ask", "praise", "show"))
    return _happen(
        story, teller, Event(kind, who if kind != "show" else other, thing, other if kind != "show" else who)
    )


def _feel(story: Story, teller: Teller) -> bool:
    who = teller.pick(story.people)
    if story.has[who]:
        return _happen(story, teller, Event("glad", who, teller.pick(story.has[who])))
    return False


def _count(story: Story, teller: Teller) -> bool:
    who = teller.pick(story.people)
    if len(story.has[who]) < 2 and story.events:
        return False
    return bool(story.has[who]) and _happen(story, teller, Event("count", who))


def _pet(story: Story, teller: Teller) -> bool:
    who = teller.pick(story.people)
    if any(e.kind == "pet" for e in story.events) or len(story.events) > 5:
        return False
    return _happen(story, teller, Event("pet", who, place=story.at[who]))


_STEPS: tuple[Callable[[Story, Teller], bool], ...] = (
    *(_go, _go, _go, _follow, _follow, _find, _give, _give, _give, _trade, _put, _put, _take, _take),
    *(_lose, _return, _return, _use, _use, _talk, _talk, _talk, _feel, _count, _pet),
)


def _happen(story: Story, teller: Teller, event: Event) -> bool:
    """Word the event; if a wording belongs to the split, tell it and change the state. Whether it was told."""
    slots = _slots(story, teller, event)
    line = teller.tell(W.EVENTS[event.kind], slots, W.OPENERS[event.kind] if story.events else W.NO_OPENER)
    if line is None:
        return False
    story.sentences.append(line)
    story.events.append(event)
    story.last_subject = event.who if event.other is None else None
    _apply(story, event)
    return True


def _apply(story: Story, event: Event) -> None:
    kind, who, thing, other = event.kind, event.who, event.thing, event.other
    if kind in ("own", "find") and thing:
        story.nouns.add(thing.noun)
        story.has[who].append(thing)
    elif kind in ("go", "carry", "follow") and event.place:
        story.at[who] = event.place
    elif kind in ("give", "trade") and thing and other:
        story.has[who].remove(thing)
        story.has[other].append(thing)
        if event.other_thing:
            story.has[other].remove(event.other_thing)
            story.has[who].append(event.other_thing)
    elif kind == "put" and thing and event.spot:
        story.has[who].remove(thing)
        story.lying[thing] = (story.at[who], event.spot)
    elif kind == "take" and thing:
        del story.lying[thing]
        story.has[who].append(thing)
    elif kind == "lose" and thing and event.place:
        story.has[who].remove(thing)
        story.lost[thing] = (who, event.place)
    elif kind == "return" and thing and other and event.place:
        del story.lost[thing]
        story.has[other].append(thing)
        story.at[who] = story.at[other]


def _slots(story: Story, teller: Teller, event: Event) -> dict[str, str]:
    who, thing, other = event.who, event.thing, event.other
    slots = _person_slots(who)
    if who is story.last_subject and teller.random() < 0.6:
        slots["who"] = who.he
    if thing:
        the = _the(thing) if teller.random() < 0.6 else f"the {thing.noun}"
        slots |= {"the": the, "a": with_article(thing.phrase), "noun": thing.noun, "phrase": thing.phrase}
        slots |= {"colour": thing.colour, "use": THING_USES[thing.noun].format(the=the)}
    if other:
        slots |= {
            "other": other.subject,
            "other_whom": other.object,
            "others": other.possessive,
            "other_him": other.him,
        }
    if event.other_thing:
        slots["the2"] = _the(event.other_thing)
    if event.place:
        slots |= {"to": event.place.to, "at": event.place.at}
    if event.spot:
        slots |= {"in": event.spot.in_, "out": event.spot.out}
    if event.kind == "count":
        things = story.has[who]
        slots["things"] = listing([with_article(t.phrase) for t in things])
        slots["n"] = ("one thing", "two things", "three things", "four things", "five things", "six things")[
            len(things) - 1
        ]
    if event.kind == "pet":
        animal = teller.pick(tuple(PETS))
        slots |= {
            "animal": animal,
            "did": PETS[animal],
            "pet": teller.pick(PET_NAMES),
            "colour": teller.pick(PET_COLOURS),
        }
    return slots


def _person_slots(who: Person) -> dict[str, str]:
    return {"who": who.subject, "whom": who.object, "whos": who.possessive, "his": who.his, "he": who.he}


def _the(thing: Thing) -> str:
    return f"the {thing.phrase}"
