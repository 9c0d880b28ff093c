"""Generated regions in a text that people write in too: what stands between two marks is renewed, all else stays."""

import hashlib
import re
from collections.abc import Mapping
from dataclasses import dataclass

MARK = re.compile(r"^<!-- tracker:(begin|end) (\S+?)(?: ([0-9a-f]{12}))? -->[ \t]*\r?$", re.MULTILINE)
NEW = re.compile(r"^<!-- tracker:new -->[ \t]*\r?$", re.MULTILINE)
"""New regions are put above this line; else at the end."""


class BrokenMarksError(ValueError):
    """The marks don't pair up; the message says which and where."""


@dataclass(frozen=True)
class Region:
    """A marked part of a text.

    Attributes:
        start, end: of all of it, with its marks.
        content: between them, without the line break before the end.
        is_edited: whether somebody has changed it since it was written.
    """

    name: str
    start: int
    end: int
    content: str
    is_edited: bool


def regions_of(text: str) -> dict[str, Region]:
    """The regions of a text, by name.

    Raises:
        BrokenMarksError: one does not end, ends without a beginning, stands in another one, or stands twice.
    """
    regions: dict[str, Region] = {}
    opened: re.Match[str] | None = None
    for mark in MARK.finditer(text):
        kind, name, _ = mark.groups()
        line = _line(text, mark)
        if kind == "begin":
            if opened:
                raise BrokenMarksError(f"line {line} begins '{name}' before '{opened[2]}' has ended")
            if name in regions:
                raise BrokenMarksError(f"line {line} begins '{name}' a second time")
            opened = mark
            continue
        if opened is None or opened[2] != name:
            inside = f"in '{opened[2]}'" if opened else "without a beginning"
            raise BrokenMarksError(f"line {line} ends '{name}' {inside}")
        content = text[opened.end() + 1 : mark.start()].removesuffix("\n")
        regions[name] = Region(name, opened.start(), mark.end(), content, opened[3] != _fingerprint(content))
        opened = None
    if opened:
        raise BrokenMarksError(f"line {_line(text, opened)} begins '{opened[2]}', which has no end")
    return regions


def renewed(text: str, contents: Mapping[str, str]) -> str:
    """The text with these contents in those of its regions that have the names; others stay."""
    pieces, at = [], 0
    for name, region in regions_of(text).items():
        if name in contents and _plain(region.content) != _guarded(contents[name]):
            pieces += [text[at : region.start], marked(name, contents[name])]
            at = region.end
    return "".join([*pieces, text[at:]])


def with_new(text: str, parts: str) -> str:
    """The text with more parts above the line for new ones, or at its end."""
    if place := NEW.search(text):
        return f"{text[: place.start()]}{parts}\n{text[place.start() :]}"
    gap = "" if not text or text.endswith("\n\n") else "\n" if text.endswith("\n") else "\n\n"
    return f"{text}{gap}{parts}"


def marked(name: str, content: str) -> str:
    """A region; nothing in its content is taken for a mark."""
    content = _guarded(content)
    return f"<!-- tracker:begin {name} {_fingerprint(content)} -->\n{content}\n<!-- tracker:end {name} -->"


def _line(text: str, mark: re.Match[str]) -> int:
    return text.count("\n", 0, mark.start()) + 1


def _guarded(content: str) -> str:
    return content.replace("<!-- tracker:", "<!- - tracker:")


def _plain(content: str) -> str:
    """Without what an editor may do to line ends."""
    return content.replace("\r\n", "\n").removesuffix("\r")


def _fingerprint(content: str) -> str:
    return hashlib.sha256(_plain(content).encode("utf-8", "surrogateescape")).hexdigest()[:12]
