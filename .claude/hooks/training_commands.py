"""Which of a shell command's parts train a model of this project, with which options and where."""

from __future__ import annotations  # a machine's own python3 may be older than the project's

import re
import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from shell_words import Word, simple_commands

KEYWORDS = {"if", "then", "elif", "else", "while", "until", "do", "{", "!", "time"}
WRAPPERS = {"env", "nohup", "exec", "command", "nice", "ionice", "setsid", "stdbuf", "timeout", "caffeinate"}
RUNNERS = {("uv", "run"), ("poetry", "run"), ("pipenv", "run"), ("coverage", "run")}
WITH_VALUE = {
    "-n", "-c", "-k", "-s", "--signal", "--kill-after", "--adjustment", "--with", "--extra", "--group", "--python",
    "-p", "--package",
}  # fmt: skip
"""Options of wrappers and runners that are followed by a value; not those that change the folder or variables."""
PYTHON_WITH_VALUE = {"-X", "-W"}
LAUNCHERS = {"torch.distributed.run", "torch.distributed.launch"}
ASKS = {"-h", "--help", "--hydra-help", "-c", "--cfg", "-i", "--info", "--version", "-sc", "--shell-completion"}
"""Options of train.py behind which nothing is trained."""
SHELLS = {"bash", "sh", "zsh", "dash"}
HARMLESS = {"set", "echo", "printf", "true", ":", "ls", "pwd", "date", "which", "nvidia-smi"}
"""Commands that change nothing."""
ASSIGNMENT = re.compile(r"[A-Za-z_]\w*=")


class Training(NamedTuple):
    """One start of train.py.

    Attributes:
        arguments: of train.py.
        folder: where it starts.
        environment: variables set for it in the command.
        is_plain: all of it is known; else a variable or a file pattern stands somewhere.
        is_launched: by torchrun, which decides on the devices.
        comes_first: nothing in front of it may change what it meets: files, processes, the disk.
    """

    arguments: list[str]
    folder: Path
    environment: dict[str, str]
    is_plain: bool
    is_launched: bool
    comes_first: bool


def trainings(line: str, folder: Path, project: Path) -> list[Training]:
    """Every training of `project` that a Bash command starts on this machine."""
    found: list[Training] = []
    environment: dict[str, str] = {}
    comes_first = is_known = True
    for words, writes, is_fallback in simple_commands(line):
        words = _without_keywords(words)
        comes_first = comes_first and not is_fallback
        if words and words[0].text == "cd":
            folder = folder / words[1].text if len(words) > 1 else Path.home()
            continue
        if words and (words[0].text == "export" or all(ASSIGNMENT.match(word.text) for word in words)):
            environment |= dict(_assigned(word.text) for word in words if ASSIGNMENT.match(word.text))
            is_known = is_known and all(word.is_plain for word in words)
            continue
        whole = words
        own, words = _without_wrappers(words)
        is_own_known = all(word.is_plain for word in whole[: len(whole) - len(words)])
        if len(words) > 2 and Path(words[0].text).name in SHELLS and re.fullmatch(r"-[a-z]*c", words[1].text):
            inside = trainings(words[2].text, folder, project)
        else:
            inside = _training(words, folder, project)
        for training in inside:
            known = environment | own | training.environment
            is_plain = training.is_plain and is_known and is_own_known
            is_first = comes_first and training.comes_first
            found.append(training._replace(environment=known, is_plain=is_plain, comes_first=is_first))
        comes_first = comes_first and not inside and not writes and _is_harmless(words)
    return found


def _is_harmless(words: list[Word]) -> bool:
    """Whether a training behind it meets what the hook has met."""
    if len(words) == 2 and words[0].text in ("source", "."):
        return Path(words[1].text).name.startswith("activate")
    return bool(words) and words[0].text in HARMLESS


def _training(words: list[Word], folder: Path, project: Path) -> list[Training]:
    """The training that a command without wrappers starts, if it starts one."""
    started = _started(words, folder, project)
    if started is None:
        return []
    arguments, is_launched = started
    texts = [word.text for word in arguments]
    if ASKS.intersection(texts) or any(text.startswith(("--cfg=", "--info=")) for text in texts):
        return []
    return [Training(texts, folder, {}, all(word.is_plain for word in arguments), is_launched, True)]


def _assigned(text: str) -> tuple[str, str]:
    name, _, value = text.partition("=")
    return name, value


def _without_keywords(words: list[Word]) -> list[Word]:
    while words and words[0].text in KEYWORDS:
        words = words[1:]
    return words


def _without_wrappers(words: list[Word]) -> tuple[dict[str, str], list[Word]]:
    """The variables set in front of a command, and the command itself."""
    environment: dict[str, str] = {}
    while words:
        name = Path(words[0].text).name
        if ASSIGNMENT.match(words[0].text):
            environment |= [_assigned(words[0].text)]
            words = words[1:]
        elif name in WRAPPERS:
            words = words[1:] if name == "env" else _behind_options(words[1:])  # env's options hide variables
            if name == "timeout" and words:  # its duration
                words = words[1:]
        elif len(words) > 1 and (name, words[1].text) in RUNNERS:
            words = _behind_options(words[2:])
        else:
            break
    return environment, words


def _behind_options(words: list[Word], with_value: set[str] = WITH_VALUE) -> list[Word]:
    while words and words[0].text.startswith("-") and words[0].text != "-":
        words = words[2:] if words[0].text in with_value else words[1:]
    return words


def _started(words: list[Word], folder: Path, project: Path) -> tuple[list[Word], bool] | None:
    """The arguments for train.py, and whether a launcher hands them over; None: this starts something else."""
    name = Path(words[0].text).name if words else ""
    if name == "make":
        return _made(words[1:], folder, project)
    if name == "torchrun":
        return _launched(words[1:], folder, project)
    if not re.fullmatch(r"python[\d.]*", name):
        return None
    words = words[1:]
    while words and words[0].text.startswith("-"):
        if words[0].text == "-m" and len(words) > 1 and words[1].text in LAUNCHERS:
            return _launched(words[2:], folder, project)
        if words[0].text in ("-m", "-c", "-"):
            return None
        words = words[2:] if words[0].text in PYTHON_WITH_VALUE else words[1:]
    if words and _is_ours(words[0].text, folder, project):
        return words[1:], False
    return None


def _launched(words: Sequence[Word], folder: Path, project: Path) -> tuple[list[Word], bool] | None:
    for place, word in enumerate(words):
        if _is_ours(word.text, folder, project):
            return list(words[place + 1 :]), True
    return None


def _made(words: list[Word], folder: Path, project: Path) -> tuple[list[Word], bool] | None:
    texts = [word.text for word in words]
    if folder.resolve() != project.resolve() or "train" not in texts or any(text.startswith("-") for text in texts):
        return None  # with options it may only print
    given = [word for word in words if word.text.startswith("ARGS=")]
    return [Word(text, word.is_plain) for word in given for text in shlex.split(word.text[5:])], False


def _is_ours(script: str, folder: Path, project: Path) -> bool:
    return (folder / script).resolve() == (project / "train.py").resolve()
