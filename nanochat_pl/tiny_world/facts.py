"""What is true in the world, as tables, and the ways to say and to ask it.

A statement is written without its full stop, as it stands within a sentence, so that it can be told by somebody.
"""

# Lists of words are easier to read and to extend as one string.
# ruff: noqa: SIM905

from typing import NamedTuple

from nanochat_pl.tiny_world.world import ANIMALS, DAYS, FOODS, MONTHS, NUMBER_WORDS, plural, with_article


class Family(NamedTuple):
    """Facts of one kind: the rows, and the wordings of each of them as statements, questions and short answers."""

    topic: str
    rows: tuple[dict[str, str], ...]
    statements: tuple[str, ...]
    questions: tuple[str, ...]
    answer: str


CAPITALS = dict(
    pair.split(":")
    for pair in (
        "France:Paris, Germany:Berlin, Italy:Rome, Spain:Madrid, Portugal:Lisbon, Austria:Vienna, Poland:Warsaw, "
        "Greece:Athens, Norway:Oslo, Sweden:Stockholm, Denmark:Copenhagen, Finland:Helsinki, Ireland:Dublin, "
        "Hungary:Budapest, Belgium:Brussels, Russia:Moscow, Japan:Tokyo, China:Beijing, India:New Delhi, Egypt:Cairo, "
        "Kenya:Nairobi, Canada:Ottawa, Mexico:Mexico City, Brazil:Brasilia, Argentina:Buenos Aires, Chile:Santiago, "
        "Peru:Lima, Cuba:Havana, Australia:Canberra, Turkey:Ankara, Thailand:Bangkok, Vietnam:Hanoi, Iran:Tehran, "
        "Ukraine:Kyiv, Iceland:Reykjavik, Scotland:Edinburgh"
    ).split(", ")
)
NATURE_COLOURS = {
    "grass": "green",
    "snow": "white",
    "coal": "black",
    "blood": "red",
    "the sun": "yellow",
    "the clear sky": "blue",
    "milk": "white",
    "chocolate": "brown",
    "a ripe tomato": "red",
    "a leaf in summer": "green",
    "the night sky": "black",
    "a swan": "white",
    "a fire engine": "red",
    "an elephant": "grey",
    "a flamingo": "pink",
    "a raven": "black",
}
OPPOSITES = dict(
    pair.split(":")
    for pair in (
        "big:small, hot:cold, up:down, day:night, fast:slow, old:young, happy:sad, light:dark, wet:dry, full:empty, "
        "open:closed, high:low, long:short, hard:soft, loud:quiet, clean:dirty, early:late, rich:poor, strong:weak, "
        "left:right, near:far, thick:thin, sweet:sour, inside:outside, first:last, good:bad, true:false, "
        "push:pull, begin:end, buy:sell, win:lose, laugh:cry, give:take, come:go, awake:asleep"
    ).split(", ")
)
JOBS = {
    "baker": "bakes bread",
    "teacher": "teaches children",
    "farmer": "works in the fields",
    "doctor": "helps people who are ill",
    "pilot": "flies planes",
    "painter": "paints pictures",
    "fisherman": "catches fish",
    "gardener": "looks after plants",
    "cook": "makes meals",
    "dentist": "looks after teeth",
    "tailor": "makes clothes",
    "carpenter": "builds things from wood",
    "librarian": "looks after books",
    "firefighter": "puts out fires",
    "judge": "decides in court",
    "postman": "brings letters",
    "shepherd": "looks after sheep",
    "musician": "makes music",
}
MATERIALS = {
    "window": "glass",
    "table": "wood",
    "book": "paper",
    "coin": "metal",
    "jumper": "wool",
    "candle": "wax",
    "statue": "stone",
    "tyre": "rubber",
    "snowman": "snow",
    "shirt": "cotton",
    "shoe": "leather",
    "needle": "steel",
}
TOOLS = {
    "cut paper": "scissors",
    "open a lock": "a key",
    "sweep the floor": "a broom",
    "hit a nail": "a hammer",
    "write on paper": "a pen",
    "eat soup": "a spoon",
    "cut bread": "a knife",
    "dig a hole": "a spade",
    "sew a button": "a needle",
    "see the stars": "a telescope",
    "tell the time": "a clock",
    "stay dry in the rain": "an umbrella",
    "brush your hair": "a hairbrush",
    "paint a wall": "a paintbrush",
}
KINDS = {
    "rose": "flower",
    "oak": "tree",
    "hammer": "tool",
    "violin": "musical instrument",
    "sparrow": "bird",
    "salmon": "fish",
    "ant": "insect",
    "triangle": "shape",
    "tulip": "flower",
    "pine": "tree",
    "guitar": "musical instrument",
    "eagle": "bird",
    "carrot": "vegetable",
    "apple": "fruit",
    "pear": "fruit",
    "onion": "vegetable",
    "saw": "tool",
    "butterfly": "insect",
    "shark": "fish",
    "circle": "shape",
    "trumpet": "musical instrument",
    "bus": "vehicle",
    "bicycle": "vehicle",
}
PARTS = {
    "a week": "seven days",
    "a year": "twelve months",
    "a day": "24 hours",
    "an hour": "60 minutes",
    "a minute": "60 seconds",
    "a triangle": "three sides",
    "a square": "four sides",
    "a hand": "five fingers",
    "a spider": "eight legs",
    "an insect": "six legs",
    "a bicycle": "two wheels",
    "a dozen": "twelve pieces",
    "a century": "one hundred years",
    "the alphabet": "26 letters",
    "a metre": "100 centimetres",
    "a kilogram": "1000 grams",
}
SENSES = {
    "see": "eyes",
    "hear": "ears",
    "smell": "nose",
    "taste": "tongue",
    "bite": "teeth",
    "walk": "feet",
    "think": "brain",
    "breathe": "lungs",
    "catch a ball": "hands",
}
MONTH_DAYS = (31, 28, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31)
SEASONS = (
    "winter",
    "winter",
    "spring",
    "spring",
    "spring",
    "summer",
    "summer",
    "summer",
    "autumn",
    "autumn",
    "autumn",
    "winter",
)


def _rows(table: dict[str, str]) -> tuple[dict[str, str], ...]:
    return tuple(
        {"a": key, "an": with_article(key), "b": value, "bn": with_article(value)} for key, value in table.items()
    )


def _successors(names: list[str]) -> tuple[dict[str, str], ...]:
    return tuple({"a": a, "b": b} for a, b in zip(names, [*names[1:], names[0]]))


_PART_ROWS = tuple({"a": a, "b": b, "n": b[: b.rindex(" ")], "unit": b[b.rindex(" ") + 1 :]} for a, b in PARTS.items())
_MONTH_ROWS = tuple(
    {"a": m, "days": str(MONTH_DAYS[i]), "season": SEASONS[i], "next": MONTHS[(i + 1) % 12]}
    for i, m in enumerate(MONTHS)
)
_ANIMAL_ROWS = tuple(
    {
        "an": with_article(a.name),
        "many": plural(a.name),
        "sound": a.sound,
        "young": with_article(a.young),
        "home": with_article(a.home) if a.home not in ("mountains",) else "the mountains",
        "food": a.food,
        "legs": f"{NUMBER_WORDS[a.legs]} legs" if a.legs else "no legs",
        "moves": a.moves,
    }
    for a in ANIMALS
)
_ON_ANIMALS = (
    (
        "sounds",
        (
            "{an} says {sound}",
            "the sound of {an} is {sound}",
            "when you hear the sound {sound}, {an} is near",
            "{many} say {sound}",
        ),
        ("what does {an} say?", "what sound does {an} make?"),
        "{sound}",
    ),
    (
        "young animals",
        ("the young of {an} is called {young}", "{young} is the child of {an}", "when {an} has a child, it is {young}"),
        ("what is the young of {an} called?", "what do you call the child of {an}?"),
        "{young}",
    ),
    (
        "homes",
        (
            "{an} lives in {home}",
            "{many} live in {home}",
            "you can find {many} in {home}",
            "the home of {an} is {home}",
        ),
        ("where does {an} live?", "where do {many} live?"),
        "in {home}",
    ),
    (
        "food",
        ("{an} eats {food}", "{many} like to eat {food}", "{many} eat {food}", "{many} live on {food}"),
        ("what does {an} eat?", "what do {many} like to eat?"),
        "{food}",
    ),
    (
        "legs",
        ("{an} has {legs}", "{many} have {legs}", "{an} is an animal with {legs}"),
        ("how many legs does {an} have?", "how many legs do {many} have?"),
        "{legs}",
    ),
    (
        "what animals do",
        ("{an} can {moves}", "{many} {moves}", "{many} are able to {moves}", "{an} likes to {moves}"),
        ("what can {an} do?", "what do {many} do?"),
        "{moves}",
    ),
)

FAMILIES = (
    Family(
        "capitals",
        _rows(CAPITALS),
        (
            "the capital of {a} is {b}",
            "{b} is the capital of {a}",
            "{a} has a capital called {b}",
            "the capital city of {a} is {b}",
            "the government of {a} sits in {b}",
            "if you travel to the capital of {a}, you come to {b}",
        ),
        ("what is the capital of {a}?", "which city is the capital of {a}?", "do you know the capital of {a}?"),
        "{b}",
    ),
    Family(
        "countries",
        _rows(CAPITALS),
        ("{b} is a city in {a}", "{b} lies in {a}", "the city of {b} is in {a}", "people in {b} live in {a}"),
        ("in which country is {b}?", "where is {b}?", "which country has the capital {b}?"),
        "{a}",
    ),
    Family(
        "colours",
        _rows(NATURE_COLOURS),
        ("{a} is {b}", "the colour of {a} is {b}", "{b} is the colour of {a}", "{a} looks {b}"),
        ("what colour is {a}?", "which colour does {a} have?", "what is the colour of {a}?"),
        "{b}",
    ),
    Family(
        "fruit and vegetables",
        _rows(FOODS),
        (
            "{an} is usually {b}",
            "the colour of {an} is {b}",
            "most of the time, {an} is {b}",
            "if you paint {an}, you need {b} paint",
        ),
        ("what colour is {an}?", "which colour do you need to paint {an}?"),
        "{b}",
    ),
    Family(
        "opposites",
        _rows({**OPPOSITES, **{b: a for a, b in OPPOSITES.items()}}),
        (
            "the opposite of {a} is {b}",
            "{a} is the opposite of {b}",
            "{a} and {b} are opposites",
            "if it is not {a}, it may be {b}",
        ),
        ("what is the opposite of {a}?", "which word is the opposite of {a}?"),
        "{b}",
    ),
    Family(
        "jobs",
        _rows(JOBS),
        ("{an} {b}", "somebody who {b} is called {an}", "the person who {b} is {an}", "it is {an} who {b}"),
        ("what does {an} do?", "what is the work of {an}?", "what do you know about the work of {an}?"),
        "{an} {b}",
    ),
    Family(
        "materials",
        _rows(MATERIALS),
        ("{an} is made of {b}", "{b} is used to make {an}", "people make {an} out of {b}", "you need {b} to make {an}"),
        ("what is {an} made of?", "what do you need to make {an}?"),
        "{b}",
    ),
    Family(
        "tools",
        _rows(TOOLS),
        ("you {a} with {b}", "to {a}, you need {b}", "{b} can be used to {a}", "people use {b} to {a}"),
        ("what do you need to {a}?", "what do people use to {a}?"),
        "{b}",
    ),
    Family(
        "kinds of things",
        _rows(KINDS),
        ("{an} is {bn}", "{an} is a kind of {b}", "one kind of {b} is {an}", "if it is {an}, it is {bn}"),
        ("what is {an}?", "what kind of thing is {an}?"),
        "{bn}",
    ),
    Family(
        "numbers of parts",
        _PART_ROWS,
        ("{a} has {b}", "the number of {unit} that {a} has is {n}", "if you count the {unit} of {a}, you get to {n}"),
        ("how many {unit} does {a} have?", "do you know how many {unit} {a} has?"),
        "{b}",
    ),
    Family(
        "the body",
        _rows(SENSES),
        ("we {a} with our {b}", "people use their {b} to {a}", "to {a}, you need your {b}", "you {a} with your {b}"),
        ("what do you {a} with?", "what do you need to {a}?"),
        "your {b}",
    ),
    Family(
        "days",
        _successors(DAYS),
        (
            "the day after {a} is {b}",
            "{b} comes after {a}",
            "{a} comes before {b}",
            "the day before {b} is {a}",
            "if today is {a}, tomorrow is {b}",
            "if today is {b}, yesterday was {a}",
            "after {a} comes {b}",
        ),
        ("which day comes after {a}?", "what day is it after {a}?", "if today is {a}, what day is tomorrow?"),
        "{b}",
    ),
    Family(
        "months",
        _MONTH_ROWS,
        (
            "the month after {a} is {next}",
            "{next} comes after {a}",
            "{a} comes before {next}",
            "after {a} comes {next}",
        ),
        ("which month comes after {a}?", "what is the month after {a}?"),
        "{next}",
    ),
    Family(
        "lengths of months",
        _MONTH_ROWS,
        ("{a} has {days} days", "there are {days} days in {a}", "the number of days in {a} is {days}"),
        ("how many days does {a} have?", "how long is {a}?"),
        "{days} days",
    ),
    Family(
        "seasons",
        _MONTH_ROWS,
        ("{a} is in {season}", "in the north, {a} belongs to {season}", "the season of {a} is {season}"),
        ("in which season is {a}?", "what season is it in {a}?"),
        "{season}",
    ),
    *(
        Family(topic, _ANIMAL_ROWS, statements, questions, answer)
        for topic, statements, questions, answer in _ON_ANIMALS
    ),
)
