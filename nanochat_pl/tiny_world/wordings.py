"""How stories are worded. A template is written as it stands within a sentence; {who}, {the}, ... see stories.py."""

BEGINNINGS = (
    "one {bare_weather} {time}, {names} met {at}.",
    "it was {weather} {time}, and {names} were {at}.",
    "{names} went {to} on {weather} {time}.",
    "on {weather} {time}, {who} walked {to} and met {others} there.",
    "there was nobody {at} that {bare_weather} {time} but {names}.",
    "{who} and {others} were playing {at} on {weather} {time}.",
    "this is the story of {names}, who met {at} on {weather} {time}.",
)
NARRATOR_BEGINNINGS = (
    "one {bare_weather} {time}, I met {others} {at}.",
    "it was {weather} {time}, and I was {at} with {others}.",
    "{others} and I went {to} on {weather} {time}.",
    "on {weather} {time}, I walked {to} and met {others} there.",
    "nobody was {at} that {bare_weather} {time} but {others} and me.",
)

_THEN = ("", "", "", "", "then ", "after that, ", "soon ", "later, ", "a little later, ", "after a while, ", "next, ")
_PLAIN = ("", "", "", "", "then ", "now ", "just then, ", "a moment later, ")
NO_OPENER = ("",)

EVENTS = {
    "own": (
        "{who} had {a}.",
        "{who} had brought {a}.",
        "{who} was carrying {a}.",
        "{who} had {a} in {his} bag.",
        "{who} had got {a} for {his} birthday.",
        "in {his} hands, {who} held {a}.",
        "everybody could see that {who} had {a}.",
    ),
    "go": (
        "{who} went {to}.",
        "{who} walked {to}.",
        "{who} ran {to}.",
        "{who} left and went {to}.",
        "{who} wanted to go {to}, so {he} did.",
        "{who} rode a bike {to}.",
    ),
    "carry": (
        "{who} went {to} with {the}.",
        "{who} took {the} and walked {to}.",
        "{who} carried {the} {to}.",
        "{who} ran {to} with {the} in one hand.",
        "with {the}, {who} went {to}.",
    ),
    "follow": (
        "{who} went {to}, where {other} was.",
        "{who} followed {other_whom} {to}.",
        "{who} was looking for {other_whom} and came {to}.",
        "{who} joined {other_whom} {at}.",
        "{who} met {other_whom} {at}.",
    ),
    "find": (
        "{who} found {a} {at}.",
        "{at}, {who} saw {a} and picked it up.",
        "there was {a} {at}, and {who} took it.",
        "{who} looked around {at} and found {a}.",
        "{who} nearly fell over {a} and kept it.",
    ),
    "give": (
        "{who} gave {the} to {other_whom}.",
        "{who} gave {other_whom} {the}.",
        "{who} handed {the} to {other_whom}.",
        "{other} asked for {the}, and {who} gave it to {other_him}.",
        "{other} got {the} from {whom}.",
        "{who} made {other_whom} a present of {the}.",
    ),
    "trade": (
        "{who} gave {the} to {other_whom} and got {the2} for it.",
        "{who} traded {the} for {the2} with {other_whom}.",
        "{other} took {the} and gave {whom} {the2}.",
        "{who} wanted {the2}, so {he} gave {other_whom} {the} for it.",
    ),
    "put": (
        "{who} put {the} {in}.",
        "{who} left {the} {in}.",
        "{who} set {the} down {in}.",
        "{who} laid {the} down {in}.",
        "{who} did not need {the} any more and put it {in}.",
    ),
    "take": (
        "{who} took {the} {out}.",
        "{who} got {the} {out}.",
        "{who} saw {the} {in} and took it.",
        "{who} looked {in}, found {the} and took it.",
        "{who} fetched {the} {out}.",
    ),
    "lose": (
        "{who} lost {the} {at}.",
        "{the} was suddenly gone, and {who} was sad.",
        "{who} dropped {the} {at} and did not notice.",
        "{who} looked for {the}, but it was lost.",
        "{who} could not find {the} any more.",
    ),
    "return": (
        "{who} found {the} {at} and gave it back to {other_whom}.",
        "{who} found {the} that {other} had lost and brought it back.",
        "{who} searched {at}, found {the} and gave it to {other_whom}.",
        "{other} got {the} back because {who} had found it {at}.",
    ),
    "use": (
        "{who} {use}.",
        "{who} smiled and {use}.",
        "{who} laughed and {use}.",
        "{who} sat down for a minute and then {use}.",
    ),
    "ask": (
        '"May I see your {noun}, {other}?" asked {who}.',
        '"Is that {colour} {noun} yours?" asked {who}, and {other} said yes.',
        '"What colour is your {noun}?" asked {who}, and {other} said, "It is {colour}."',
        '"Who has {the}?" asked {who}, and {other} said, "I have it."',
        '{who} asked, "Where is {the}?" and {other} said, "I have it here."',
        '"Where did you get {the}?" asked {who}, but {other} did not remember.',
    ),
    "praise": (
        '"I like your {noun}," said {who} to {other_whom}.',
        '"What a lovely {phrase}!" said {who} to {other_whom}.',
        '"{other}, your {colour} {noun} is beautiful," said {who}.',
        "{who} liked {others} {phrase} very much.",
        "{who} told {other_whom} that the {noun} was beautiful.",
        '"I would like to have {a} too," said {who}, looking at {others} {noun}.',
    ),
    "show": (
        "{who} showed {the} to {other_whom}.",
        '"Look at my {phrase}!" said {who} to {other_whom}.',
        '{who} said to {other_whom}, "My {noun} is {colour}."',
        '"This {noun} belongs to me now," said {who}, and {other} nodded.',
        "{who} let {other_whom} hold {the} for a moment.",
    ),
    "glad": (
        "{who} was happy with {the}.",
        "{who} was glad to have {the}.",
        "{who} liked {the} best of all.",
        "{who} was very proud of {the}.",
        "{who} held {the} tightly.",
    ),
    "count": (
        "{who} had {n} in all: {things}.",
        "{who} now had {things}.",
        "now {n} belonged to {whom}: {things}.",
        "{who} counted {n}: {things}.",
    ),
    "pet": (
        "{who} had a {colour} {animal} called {pet}, and it {did}.",
        "{pet}, {whos} {colour} {animal}, was {at} too and {did}.",
        "a {colour} {animal} called {pet} came and {did}, and {who} laughed.",
        "{who} heard a noise: it was {pet}, the {colour} {animal}, who {did}.",
    ),
}

OPENERS = {
    **dict.fromkeys(EVENTS, _THEN),
    **dict.fromkeys(("own", "glad", "count", "praise", "ask", "show", "pet"), NO_OPENER),
    **dict.fromkeys(("find", "lose", "use"), _PLAIN),
}

ENDINGS = (
    "at the end of the day, {who} had {things}.",
    "when the {time} was over, {who} still had {things}.",
    "in the end, {who} was {at} and had {things}.",
    "{who} went home with {things}.",
    "from that day on, {things} belonged to {whom}.",
    "{who} kept {things} for many years.",
)
