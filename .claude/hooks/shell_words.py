"""The simple commands of a shell command line: what Bash would start, as far as that can be read without running it."""

import re
import shlex
from typing import NamedTuple

# One piece at a time. A word may be glued together from bare and quoted parts: data.files='a b'.txt
_PIECE = re.compile(
    r"""(?P<blank>(?:[ \t\r]|\\\n)+)
      | (?P<comment>\#[^\n]*)
      | (?P<redirection>\d*(?:<<<|<<-?|>>|>&|<&|>\||[<>])|&>>?)
      | (?P<operator>\n|&&|\|\||;;|\|&|[;&|()])
      | (?P<word>(?:[^\s'"\\;&|()<>]|\\.|'[^']*'|\$?"(?:[^"\\]|\\.)*")+)
    """,
    re.VERBOSE | re.DOTALL,
)


class Word(NamedTuple):
    """A word of a command.

    Attributes:
        text: without its quotes.
        is_plain: the shell puts nothing else in its place (a variable, a file pattern).
    """

    text: str
    is_plain: bool


def simple_commands(line: str) -> list[list[Word]]:
    """The words of each simple command, in order, without redirections, comments and the text of here-documents.

    Empty where the line cannot be read: open quotes, or what this small grammar does not know.
    """
    commands: list[list[Word]] = [[]]
    here_documents: list[str] = []
    awaited = ""  # the redirection whose file or end mark comes next
    place = 0
    while place < len(line):
        piece = _PIECE.match(line, place)
        if piece is None:
            return []
        place = piece.end()
        if piece["redirection"]:
            awaited = piece["redirection"]
        elif piece["operator"]:
            commands.append([])
            while piece["operator"] == "\n" and here_documents:
                place = _behind(line, place, here_documents.pop(0))
        elif piece["word"]:
            word = _word(piece["word"])
            if awaited.lstrip("0123456789").startswith("<<") and "<<<" not in awaited:
                here_documents.append(word.text)
            elif not awaited:
                commands[-1].append(word)
            awaited = ""
    return [words for words in commands if words]


def _word(text: str) -> Word:
    outside = re.sub(r"\\.|'[^']*'", "", text, flags=re.DOTALL)  # what the shell looks into
    bare = re.sub(r'"(?:[^"\\]|\\.)*"', "", outside, flags=re.DOTALL)
    is_plain = not re.search(r"[$`]", outside) and not re.search(r"[*?{~]", bare)
    try:
        return Word("".join(shlex.split(text)), is_plain)
    except ValueError:
        return Word(text, False)


def _behind(line: str, place: int, mark: str) -> int:
    """The place behind a here-document that begins at `place`."""
    end = re.compile(rf"^\t*{re.escape(mark)}[ \t]*(?:\n|\Z)", re.MULTILINE).search(line, place)
    return end.end() if end else len(line)
