"""The world as plain data: its people, places, things and animals, and the words for them. Facts are in facts.py."""

# Lists of words are easier to read and to extend as one string.
# ruff: noqa: SIM905

from typing import NamedTuple

GIRLS = (
    "Ada Alice Amy Anna Bella Cara Clara Daisy Dora Ella Emma Eva Fay Grace Hanna Ida Iris Ivy Jane Julia Kate Lena "
    "Lily Lucy Maria Mia Mona Nina Nora Olive Paula Rita Rosa Ruby Sara Sofia Tara Tina Vera Zoe"
).split()
BOYS = (
    "Adam Alan Alex Arlo Ben Bill Carl Dan David Eli Emil Felix Finn Frank Fred George Hugo Ian Ivan Jack Jim John "
    "Karl Leo Luke Mark Max Nick Noah Omar Oscar Otto Paul Peter Ray Sam Theo Tim Tom Victor"
).split()


class Person(NamedTuple):
    """A person with the pronouns that a story uses for them."""

    name: str
    he: str
    him: str
    his: str

    @property
    def subject(self) -> str:
        return self.name

    @property
    def object(self) -> str:
        return "me" if self.name == "I" else self.name

    @property
    def possessive(self) -> str:
        return "my" if self.name == "I" else f"{self.name}'s"


PEOPLE = tuple([Person(n, "she", "her", "her") for n in GIRLS] + [Person(n, "he", "him", "his") for n in BOYS])
NARRATOR = Person("I", "I", "me", "my")

COLOURS = "red blue green yellow black white brown pink purple orange grey golden silver".split()
SIZES = "big small little tiny old new shiny pretty".split()

THING_USES = {
    "ball": "threw {the} into the air and caught it",
    "hat": "put on {the} and looked in the mirror",
    "cup": "drank some water from {the}",
    "book": "read {the} for an hour",
    "kite": "flew {the} high above the trees",
    "drum": "played a song on {the}",
    "lamp": "turned on {the}",
    "key": "opened a door with {the}",
    "coat": "put on {the} because it was cold",
    "pen": "wrote a letter with {the}",
    "bell": "rang {the} three times",
    "boat": "let {the} float on the water",
    "doll": "sang a song to {the}",
    "spoon": "ate some soup with {the}",
    "scarf": "wore {the} all day",
    "umbrella": "opened {the} because it began to rain",
    "flute": "played a happy tune on {the}",
    "whistle": "blew {the} very loudly",
    "pencil": "drew a picture of a house with {the}",
    "brush": "painted a picture with {the}",
    "blanket": "slept under {the}",
    "bucket": "filled {the} with sand",
    "mirror": "looked at the sky in {the}",
    "basket": "filled {the} with flowers",
    "ribbon": "tied {the} around a present",
    "glove": "wore {the} to keep warm",
    "clock": "looked at {the} to see what time it was",
    "candle": "lit {the} because it was dark",
    "rope": "jumped over {the} ten times",
    "map": "looked at {the} for a long time",
    "flag": "waved {the} at a passing train",
    "mug": "drank warm milk from {the}",
    "torch": "lit up the dark path with {the}",
    "puzzle": "finished {the} before dinner",
    "toy car": "raced {the} down the hill",
    "apron": "wore {the} in the kitchen",
    "envelope": "put a letter into {the}",
    "shell": "held {the} to one ear and heard the sea",
    "stone": "threw {the} into the water and got it back",
    "feather": "blew on {the} and watched it dance",
}
"""What people carry about, and what they do with it; `{the}` stands for the thing."""
THINGS = tuple(THING_USES)


class Place(NamedTuple):
    """`to` where people go and `at` where they are."""

    name: str
    to: str
    at: str


def _places(preposition: str, names: str) -> list[Place]:
    return [Place(n, f"to the {n}", f"{preposition} the {n}") for n in names.split(", ")]


PLACES = tuple(
    _places(
        "in", "park, garden, kitchen, forest, library, barn, village, town, market, old house, museum, field, zoo, cave"
    )
    + _places(
        "at", "school, shop, lake, station, bakery, playground, harbour, castle, swimming pool, bus stop, mill, farm"
    )
    + _places("on", "beach, hill, bridge, island, playing field")
    + _places("by", "river, pond, sea, fountain, old tree, gate, well")
)


class Spot(NamedTuple):
    """Where things are put: `in_` and taken `out` of."""

    in_: str
    out: str


def _spots(preposition: str, out: str, names: str) -> list[Spot]:
    return [Spot(f"{preposition} the {n}", f"{out} the {n}") for n in names.split(", ")]


SPOTS = tuple(
    _spots("in", "out of", "wooden box, drawer, cupboard, big chest, paper bag, glass jar, suitcase, wardrobe, cart")
    + _spots("on", "from", "table, chair, shelf, bench, wall, window sill, sofa, doorstep")
    + _spots("under", "from under", "bed, tree, stairs, rug, bush, pillow")
    + _spots("behind", "from behind", "door, curtain, fence, piano, stove")
)

FOODS = {
    "apple": "red",
    "banana": "yellow",
    "pear": "green",
    "orange": "orange",
    "lemon": "yellow",
    "plum": "purple",
    "cherry": "red",
    "peach": "pink",
    "strawberry": "red",
    "grape": "purple",
    "carrot": "orange",
    "tomato": "red",
    "potato": "brown",
    "onion": "white",
    "egg": "white",
    "cucumber": "green",
    "pumpkin": "orange",
    "nut": "brown",
    "bean": "green",
    "mushroom": "brown",
}
"""Food that can be counted -> its usual colour."""
OBJECTS = ("book", "pencil", "shell", "stone", "marble", "button", "coin", "stamp", "flower", "card", "toy car")
COUNTABLE = (*FOODS, *OBJECTS)
"""What word problems and lists count."""


class Animal(NamedTuple):
    """An animal and what is true of it."""

    name: str
    sound: str
    young: str
    home: str
    food: str
    legs: int
    moves: str


ANIMALS = tuple(
    Animal(name, sound, young, home, food, int(legs), moves)
    for name, sound, young, home, food, legs, moves in (
        row.split("|")
        for row in (
            "dog|woof|puppy|kennel|meat|4|run fast",
            "cat|meow|kitten|house|fish|4|climb trees",
            "cow|moo|calf|barn|grass|4|walk slowly",
            "sheep|baa|lamb|field|grass|4|walk over the hills",
            "pig|oink|piglet|sty|almost anything|4|roll in the mud",
            "horse|neigh|foal|stable|hay|4|gallop",
            "duck|quack|duckling|pond|water plants|2|swim and fly",
            "hen|cluck|chick|henhouse|corn|2|scratch in the dust",
            "frog|croak|tadpole|pond|flies|4|jump far",
            "lion|roar|cub|savanna|meat|4|run and hunt",
            "owl|hoot|owlet|hollow tree|mice|2|fly without a sound",
            "bee|buzz|larva|hive|nectar|6|fly from flower to flower",
            "mouse|squeak|pup|hole|cheese|4|hide in small places",
            "goat|bleat|kid|mountains|leaves|4|climb on rocks",
            "donkey|hee-haw|foal|stable|hay|4|carry heavy bags",
            "wolf|awoo|pup|forest|meat|4|run for hours",
            "crow|caw|chick|nest|seeds|2|fly over the fields",
            "snake|hiss|hatchling|hole in the ground|mice|0|slide over the sand",
            "goose|honk|gosling|farmyard|grass|2|swim and fly",
            "elephant|toot|calf|savanna|leaves|4|carry trees",
        )
    )
)
PETS = {
    "dog": "barked",
    "cat": "purred",
    "parrot": "squawked",
    "rabbit": "hopped about",
    "pony": "neighed",
    "duck": "quacked",
}
PET_COLOURS = "black white brown grey".split()
PET_NAMES = "Rex Bello Spot Fluffy Coco Pepper Lucky Molly Biscuit Shadow Socks Ginger Bubbles Pip Toffee Daisy".split()

DAYS = "Monday Tuesday Wednesday Thursday Friday Saturday Sunday".split()
MONTHS = "January February March April May June July August September October November December".split()
WEATHER = "sunny rainy windy cloudy cold warm foggy snowy stormy hot grey bright".split()
TIMES = ("morning", "afternoon", "evening")
ACTIVITIES = (
    "swims in the lake, rides a bike, plays chess, bakes bread, reads a book, paints a picture, plays football, "
    "visits a friend, cleans the house, works in the garden, sings in a choir, feeds the birds, plays the piano, "
    "writes a letter, goes to the market, washes the car, climbs a hill, cooks soup, repairs a chair, learns French"
).split(", ")
CHORES = (
    "water the flowers, feed the cat, wash the dishes, make the bed, buy some milk, call grandmother, sweep the floor, "
    "write a letter, clean the windows, fix the bike, do the homework, bake a cake, empty the bin, fold the clothes, "
    "return the books, post a parcel, cut the grass, set the table, walk the dog, practise the piano"
).split(", ")

_ONES = (
    "zero one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen sixteen seventeen "
    "eighteen nineteen"
).split()
_TENS = "twenty thirty forty fifty sixty seventy eighty ninety".split()
NUMBER_WORDS = (
    *_ONES,
    *(ten if one == 0 else f"{ten}-{_ONES[one]}" for ten in _TENS for one in range(10)),
    "one hundred",
)
"""NUMBER_WORDS[n] is n in words, up to 100."""

_PLURALS = {
    "mouse": "mice",
    "sheep": "sheep",
    "goose": "geese",
    "wolf": "wolves",
    "scarf": "scarves",
    "shelf": "shelves",
}


def plural(noun: str) -> str:
    """The plural of a noun of this world."""
    if noun in _PLURALS:
        return _PLURALS[noun]
    if noun.endswith(("s", "ch", "sh", "x")) or noun in ("tomato", "potato"):
        return f"{noun}es"
    if noun.endswith("y") and noun[-2] not in "aeiou":
        return f"{noun[:-1]}ies"
    return f"{noun}s"


def with_article(phrase: str) -> str:
    """`an apple`, `a red apple`."""
    return f"an {phrase}" if phrase[0] in "aeiou" else f"a {phrase}"


def counted(n: int, noun: str) -> str:
    """`1 apple`, `3 apples`."""
    return f"{n} {noun if n == 1 else plural(noun)}"


def listing(items: list[str]) -> str:
    """`a`, `a and b`, `a, b and c`."""
    return items[0] if len(items) == 1 else f"{', '.join(items[:-1])} and {items[-1]}"
