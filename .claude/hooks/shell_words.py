"""The simple commands of a shell command line: what Bash would start, as far as that can be read without running it."""

from __future__ import annotations  # a machine's own python3 may be older than the project's

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


class Command(NamedTuple):
    """A simple command.

    Attributes:
        words: without redirections.
        writes: whether its output goes into a file.
        is_fallback: it runs only where the one before it failed.
    """

    words: list[Word]
    writes: bool = False
    is_fallback: bool = False


def simple_commands(line: str) -> list[Command]:
    """The simple commands in order, without comments and the text of here-documents.

    Empty where the line cannot be read: open quotes, or what this small grammar does not know.
    """
    commands = [Command([])]
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
            commands[-1] = commands[-1]._replace(writes=commands[-1].writes or ">" in awaited)
        elif piece["operator"]:
            commands.append(Command([], is_fallback=piece["operator"] == "||"))
            while piece["operator"] == "\n" and here_documents:
                place = _behind(line, place, here_documents.pop(0))
        elif piece["word"]:
            word = _word(piece["word"])
            if awaited.lstrip("0123456789").startswith("<<") and "<<<" not in awaited:
                here_documents.append(word.text)
            elif not awaited:
                commands[-1].words.append(word)
            awaited = ""
    return [command for command in commands if command.words]


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
