"""Stories: what happens is decided first, as events on a small state of who has what and is where, then it is worded.

The state makes the story true to itself: a thing keeps its colour, is in one place at a time, and only who has it
gives it away. `Story.events` and `Story.has` answer questions about the story.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import NamedTuple

from nanochat_pl.tiny_world import world
from nanochat_pl.tiny_world.split import Teller
from nanochat_pl.tiny_world.tables import WORDINGS, WORLD

W = WORDINGS["story"]


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
    """Something that happened: `kind` is one of the wordings' events; what does not apply is None."""

    kind: str
    who: world.Person
    thing: Thing | None = None
    other: world.Person | None = None
    other_thing: Thing | None = None
    place: world.Place | None = None
    spot: world.Spot | None = None


@dataclass
class Story:
    """A story under way: the state after the events so far, and a sentence for each of them."""

    people: list[world.Person]
    place: world.Place
    has: dict[world.Person, list[Thing]]
    at: dict[world.Person, world.Place]
    lying: dict[Thing, tuple[world.Place, world.Spot]] = field(default_factory=dict)
    lost: dict[Thing, tuple[world.Person, world.Place]] = field(default_factory=dict)
    events: list[Event] = field(default_factory=list)
    sentences: list[str] = field(default_factory=list)
    nouns: set[str] = field(default_factory=set)
    last_subject: world.Person | None = None


def make_story(teller: Teller, length: int, narrator: bool = False) -> Story | None:
    """A story of about `length` sentences, told by "I" if `narrator`; None where it could not begin in this split."""
    people = teller.rng.sample(world.PEOPLE, 2 + (teller.random() < 0.4))
    if narrator:
        people[0] = world.NARRATOR
    place = teller.pick(world.PLACES)
    story = Story(people, place, {p: [] for p in people}, dict.fromkeys(people, place))
    if not _begin(story, teller):
        return None
    tries = 0
    while len(story.sentences) < length and tries < 60 * length:
        tries += 1
        if event := teller.pick(_STEPS)(story, teller):
            _happen(story, teller, event)
    return story if len(story.sentences) >= min(length, 4) else None


def end_story(story: Story, teller: Teller) -> str | None:
    """A last sentence that says where things are now."""
    owners = [p for p in story.people if story.has[p]]
    if not owners:
        return None
    who = teller.pick(owners)
    things = world.listing([_the(t) for t in story.has[who]])
    slots = {"things": things, "at": story.at[who].at, "time": teller.pick(world.TIMES)}
    return teller.tell(W["endings"], _person_slots(who) | slots)


def _begin(story: Story, teller: Teller) -> bool:
    people = story.people
    for _ in range(8):
        slots = {
            "names": world.listing([p.name for p in reversed(people)]),
            "who": people[0].name,
            "others": world.listing([p.name for p in people[1:]]),
            "at": story.place.at,
            "to": story.place.to,
            "weather": world.with_article(teller.pick(world.WEATHER)),
            "bare_weather": teller.pick(world.WEATHER),
            "time": teller.pick(world.TIMES),
        }
        line = teller.tell(W["narrator_beginnings" if people[0] is world.NARRATOR else "beginnings"], slots)
        if line:
            break
    else:
        return False
    story.sentences.append(line)
    for person in people:
        for _ in range(6):
            if person is people[-1] and teller.random() >= 0.7:
                continue
            if _happen(story, teller, Event("own", person, _new_thing(story, teller))):
                break
    return bool(story.nouns)


def _new_thing(story: Story, teller: Teller) -> Thing:
    noun = teller.pick(world.THINGS)
    while noun in story.nouns:
        noun = teller.pick(world.THINGS)
    return Thing(noun, teller.pick(world.COLOURS), teller.pick(world.SIZES) if teller.random() < 0.3 else "")


# What could happen next; None where it cannot.


def _go(story: Story, teller: Teller) -> Event | None:
    who, place = teller.pick(story.people), teller.pick(world.PLACES)
    if place == story.at[who]:
        return None
    carried = teller.pick(story.has[who]) if story.has[who] and teller.random() < 0.5 else None
    return Event("carry" if carried else "go", who, carried, place=place)


def _follow(story: Story, teller: Teller) -> Event | None:
    who, other = teller.rng.sample(story.people, 2)
    place = story.at[other]
    return Event("follow", who, other=other, place=place) if story.at[who] != place else None


def _find(story: Story, teller: Teller) -> Event | None:
    who = teller.pick(story.people)
    return Event("find", who, _new_thing(story, teller), place=story.at[who]) if len(story.nouns) < 6 else None


def _give(story: Story, teller: Teller) -> Event | None:
    who, other = teller.rng.sample(story.people, 2)
    can = story.has[who] and story.at[who] == story.at[other]
    return Event("give", who, teller.pick(story.has[who]), other) if can else None


def _trade(story: Story, teller: Teller) -> Event | None:
    who, other = teller.rng.sample(story.people, 2)
    can = story.has[who] and story.has[other] and story.at[who] == story.at[other]
    return Event("trade", who, teller.pick(story.has[who]), other, teller.pick(story.has[other])) if can else None


def _put(story: Story, teller: Teller) -> Event | None:
    who = teller.pick(story.people)
    return Event("put", who, teller.pick(story.has[who]), spot=teller.pick(world.SPOTS)) if story.has[who] else None


def _take(story: Story, teller: Teller) -> Event | None:
    if not story.lying:
        return None
    thing, (place, spot) = teller.pick(list(story.lying.items()))
    here = [p for p in story.people if story.at[p] == place]
    return Event("take", teller.pick(here), thing, spot=spot) if here else None


def _lose(story: Story, teller: Teller) -> Event | None:
    who = teller.pick(story.people)
    can = story.has[who] and not story.lost
    return Event("lose", who, teller.pick(story.has[who]), place=story.at[who]) if can else None


def _return(story: Story, teller: Teller) -> Event | None:
    if not story.lost:
        return None
    thing, (owner, place) = next(iter(story.lost.items()))
    return Event("return", teller.pick([p for p in story.people if p is not owner]), thing, owner, place=place)


def _use(story: Story, teller: Teller) -> Event | None:
    who = teller.pick(story.people)
    return Event("use", who, teller.pick(story.has[who])) if story.has[who] else None


def _talk(story: Story, teller: Teller) -> Event | None:
    who, other = teller.rng.sample(story.people, 2)
    if story.at[who] != story.at[other] or not story.has[other] or world.NARRATOR in (who, other):
        return None
    thing, kind = teller.pick(story.has[other]), teller.pick(("ask", "praise", "show"))
    return Event(kind, other, thing, who) if kind == "show" else Event(kind, who, thing, other)


def _feel(story: Story, teller: Teller) -> Event | None:
    who = teller.pick(story.people)
    return Event("glad", who, teller.pick(story.has[who])) if story.has[who] else None


def _count(story: Story, teller: Teller) -> Event | None:
    who = teller.pick(story.people)
    return Event("count", who) if len(story.has[who]) >= (2 if story.events else 1) else None


def _pet(story: Story, teller: Teller) -> Event | None:
    who = teller.pick(story.people)
    can = len(story.events) <= 5 and all(event.kind != "pet" for event in story.events)
    return Event("pet", who, place=story.at[who]) if can else None


_STEPS: tuple[Callable[[Story, Teller], Event | None], ...] = (
    *(_go, _go, _go, _follow, _follow, _find, _give, _give, _give, _trade, _put, _put, _take, _take),
    *(_lose, _return, _return, _use, _use, _talk, _talk, _talk, _feel, _count, _pet),
)

_OPENERS = (
    dict.fromkeys(W["events"], W["then"])
    | dict.fromkeys(("find", "lose", "use"), W["plain"])
    | dict.fromkeys(("own", "glad", "count", "praise", "ask", "show", "pet"), ("",))
)


def _happen(story: Story, teller: Teller, event: Event) -> bool:
    """Word the event; if a wording belongs to the split, tell it and change the state. Whether it was told."""
    openers = _OPENERS[event.kind] if story.events else ("",)
    line = teller.tell(W["events"][event.kind], _slots(story, teller, event), openers)
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
        slots |= {"the": the, "a": world.with_article(thing.phrase), "noun": thing.noun, "phrase": thing.phrase}
        slots |= {"colour": thing.colour, "use": world.THING_USES[thing.noun].format(the=the)}
    if other:
        slots |= {"other": other.name, "other_whom": other.object, "others": other.possessive, "other_him": other.him}
    if event.other_thing:
        slots["the2"] = _the(event.other_thing)
    if event.place:
        slots |= {"to": event.place.to, "at": event.place.at}
    if event.spot:
        slots |= {"in": event.spot.in_, "out": event.spot.out}
    if event.kind == "count":
        things = [world.with_article(t.phrase) for t in story.has[who]]
        slots |= {
            "things": world.listing(things),
            "n": f"{world.NUMBER_WORDS[len(things)]} thing{'s' * (len(things) > 1)}",
        }
    if event.kind == "pet":
        animal = teller.pick(tuple(world.PETS))
        slots |= {"animal": animal, "did": world.PETS[animal]}
        slots |= {"pet": teller.pick(WORLD["pet_names"]), "colour": teller.pick(WORLD["pet_colours"])}
    return slots


def _person_slots(who: world.Person) -> dict[str, str]:
    return {"who": who.name, "whom": who.object, "whos": who.possessive, "his": who.his, "he": who.he}


def _the(thing: Thing) -> str:
    return f"the {thing.phrase}"
