"""Reading the user's own .txt, .jsonl and .parquet files; every mistake in them is named with its place."""

import glob
import json
import re
from collections.abc import Iterable, Sequence
from pathlib import Path

from nanochat_pl.core.errors import UserError, nearest

SUFFIXES = (".txt", ".jsonl", ".parquet")


def find_files(patterns: Sequence[str], option: str = "data.files") -> list[Path]:
    """The files that paths, folders (everything readable in them) and globs name, each once, sorted within a pattern.

    Raises:
        UserError: a pattern names nothing, or a file of another kind.
    """
    found: dict[Path, None] = {}
    for pattern in patterns:
        path = Path(pattern).expanduser()
        if path.is_dir():
            matches = sorted(file for suffix in SUFFIXES for file in path.rglob(f"*{suffix}"))
            if not matches:
                raise UserError(f"{option}: the folder {path} holds no {', '.join(SUFFIXES)} files.")
        elif path.exists():
            matches = [path]
        else:
            matches = sorted(Path(name) for name in glob.glob(str(path), recursive=True) if Path(name).is_file())
            if not matches:
                raise UserError(_nothing_there(path, option))
        found.update(dict.fromkeys(matches))
    for file in found:
        if file.suffix.lower() not in SUFFIXES:
            raise UserError(f"{option}: {file} is none of {', '.join(SUFFIXES)}; rename or convert it.")
    return list(found)


def _nothing_there(path: Path, option: str) -> str:
    if any(character in str(path) for character in "*?["):
        return f"{option}: no file matches {path} (looked from {Path.cwd()})."
    if not path.parent.is_dir():
        return f"{option}: {path} does not exist: there is no folder {path.parent} (looked from {Path.cwd()})."
    hint = nearest(path.name, [file.name for file in path.parent.iterdir()])
    return f"{option}: {path} does not exist (looked from {Path.cwd()}){hint}"


def read_text(path: Path) -> str:
    """A UTF-8 file's text, line ends as "\\n".

    Raises:
        UserError: missing or unreadable, empty, binary, or not UTF-8 (with the line).
    """
    return _decode(_read_bytes(path), path).replace("\r\n", "\n").replace("\r", "\n")


def read_jsonl(path: Path, text_key: str) -> list[str]:
    """The texts of a file with one JSON object a line; empty texts and blank lines are left out.

    Raises:
        UserError: as `read_text`; a line that is not a JSON object with a string under `text_key`.
    """
    documents = []
    for number, line in enumerate(_decode(_read_bytes(path), path).split("\n"), 1):
        if not line.strip():
            continue
        try:
            text = text_of_line(line, text_key)
            if text is None:
                raise ValueError(f"'{text_key}' is null")
        except ValueError as error:
            raise UserError(
                f"{path}, line {number}: {error}. Each line must be one JSON object with a string under the key that "
                "data.text_key names."
            ) from error
        if text.strip():
            documents.append(text)
    if not documents:
        raise UserError(f"{path} holds no text under '{text_key}'.")
    return documents


def text_of_line(line: str | bytes, text_key: str) -> str | None:
    """The text in a line of .jsonl, which may be null; raises `ValueError` with the reason where there is none."""
    try:
        record = json.loads(line)
    except UnicodeDecodeError as error:
        raise ValueError(f"not UTF-8 ({error.reason})") from error
    except json.JSONDecodeError as error:
        raise ValueError(f"not JSON ({error.msg})") from error
    if not isinstance(record, dict):
        raise ValueError(f"a {type(record).__name__}")
    if text_key not in record:
        hint = nearest(text_key, list(record)).rstrip("?.")
        raise ValueError(f"no key '{text_key}' (there are: {', '.join(record) or 'none'}){hint}")
    if not isinstance(record[text_key], str | None):
        raise ValueError(f"'{text_key}' is not a string but {type(record[text_key]).__name__}")
    return record[text_key]


def split_at_blank_lines(texts: Iterable[str]) -> list[str]:
    """The parts between blank lines, each a document."""
    parts = (part.strip("\n") for text in texts for part in re.split(r"\n\s*\n", text))
    return [part for part in parts if part.strip()]


def _read_bytes(path: Path) -> bytes:
    try:
        raw = path.read_bytes()
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error.strerror}.") from error
    if not raw.strip():
        raise UserError(f"{path} is empty; give a file with text.")
    return raw


def _decode(raw: bytes, path: Path) -> str:
    nul = raw.find(b"\0")
    if nul >= 0:
        utf16 = raw[:2] in (b"\xff\xfe", b"\xfe\xff")
        what = "UTF-16; convert it to UTF-8" if utf16 else "binary: it must be UTF-8 text"
        raise UserError(f"{path} is {what} (a NUL byte on line {_line(raw, nul)}).")
    try:
        return raw.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        start = error.start + (3 if raw.startswith(b"\xef\xbb\xbf") else 0)
        raise UserError(
            f"{path}, line {_line(raw, start)}: byte 0x{raw[start]:02x} is not UTF-8 ({error.reason}). Convert the "
            f"file, for example: iconv -f latin1 -t utf-8 {path.name}"
        ) from error


def _line(raw: bytes, offset: int) -> int:
    return raw.count(b"\n", 0, offset) + 1
