"""`python -m nanochat_pl chat` as a user has it: a real process on a real (pseudo-)terminal, and in pipes."""

import json
import os
import pty
import re
import select
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.forks import REPOSITORY, Program, run_program
from tests.taught import LESSONS, save_singing_model, save_taught_model

COMMAND = ("-m", "nanochat_pl", "chat")
CTRL_C, CTRL_D = "\x03", "\x04"


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Runs `taught` (an SFT model with a short context) and `singing` (a base model that never ends)."""
    root = tmp_path_factory.mktemp("runs")
    save_singing_model(root / "singing/base/model")
    save_taught_model(root / "taught/sft/model", sequence_len=128)
    return root


def environment(runs: Path) -> dict[str, str]:
    return os.environ | {"NANOCHAT_PL_RUNS": str(runs), "OMP_NUM_THREADS": "1", "TERM": "xterm-256color"}


class Terminal:
    """A chat on a pseudo-terminal: what is typed, and what is on the screen."""

    def __init__(self, runs: Path, *arguments: str):
        self._keyboard, screen = pty.openpty()
        name = os.ttyname(screen)
        self.process = Program([*COMMAND, *arguments], environment(runs) | {"COLUMNS": "300"}, name, name, name)
        self.raw, self._read = "", 0
        self._receive(time.monotonic() + 60)
        os.close(screen)  # which the process has opened by now: its end is the terminal's

    def type(self, text: str) -> None:
        os.write(self._keyboard, text.encode())

    def interrupt(self) -> None:
        """Ctrl-C at the prompt, a moment after it is there, as people press it.

        Python sees a signal between readline's prompt and its wait for a key only when the next key comes.
        """
        time.sleep(0.3)
        self.type(CTRL_C)

    def until(self, pattern: str, seconds: float = 60) -> str:
        """Wait until `pattern` comes; what is on the screen since the last one, without colours."""
        deadline = time.monotonic() + seconds
        while True:
            fresh = plain(self.raw[self._read :])
            if found := re.search(pattern, fresh):
                self._read = len(self.raw)
                return fresh[: found.end()]
            assert time.monotonic() < deadline and self._receive(deadline), f"no {pattern!r} in {fresh!r}"

    def turn(self, line: str) -> str:
        """Type a line; all that comes until the next prompt."""
        self.type(f"{line}\n")
        return self.until(r"(?s)\n.*\n> $").removesuffix("> ").strip()

    def ended(self) -> int:
        """Wait for the end of the process: its exit code."""
        while self._receive(time.monotonic() + 60):
            pass
        return self.process.wait(timeout=60)

    def _receive(self, deadline: float) -> bool:
        if not select.select([self._keyboard], [], [], max(0.0, deadline - time.monotonic()))[0]:
            return False
        try:
            data = os.read(self._keyboard, 65536)
        except OSError:  # the process has closed its end
            return False
        self.raw += data.decode("utf-8", errors="replace")
        return bool(data)

    def close(self) -> None:
        self.process.kill()
        self.process.wait(timeout=60)
        os.close(self._keyboard)


def plain(screen: str) -> str:
    """What a person sees: no colours, no switches of the terminal."""
    return re.sub(r"\x1b\[[0-9;?]*[a-zA-Z]", "", screen).replace("\r", "")


@pytest.fixture
def chat(runs: Path) -> Iterator[Terminal]:
    terminal = Terminal(runs, str(runs / "taught"), "--temperature", "0", "--max-new-tokens", "40")
    terminal.until("> $")
    yield terminal
    terminal.close()


@pytest.mark.slow
def test_a_conversation(chat: Terminal, tmp_path: Path) -> None:
    assert re.search(r"Loading .*taught/sft \.\.\.", plain(chat.raw))
    assert re.search(r"taught/sft: 0\.\dM parameters, step 3, context of 128 tokens", plain(chat.raw))
    answer = chat.turn("What is 12*7?")
    assert "It is [12*7 = 84]84." in answer and re.search(r"15 tokens, [\d,]+ tok/s$", answer)
    colours = {"call": "\x1b[36m", "output": "\x1b[32m", "speed": "\x1b[2m"}
    assert [part for part, colour in colours.items() if colour not in chat.raw] == []
    assert "You are welcome." in chat.turn("Thanks")
    file = tmp_path / "saved.jsonl"
    assert f"Saved 4 messages to {file}" in chat.turn(f"/save {file}").replace("\n", "")
    assert json.loads(file.read_text(encoding="utf-8")) == LESSONS[0]
    assert "tokens before the newest answer and 16 in it" in chat.turn("/tokens")
    assert "A new conversation." in chat.turn("/clear")
    assert "I do not know." in chat.turn("What is my name?")
    chat.turn("/clear")
    assert "Hi Ada." in chat.turn("My name is Ada")
    assert "Ada." in chat.turn("What is my name?")
    chat.type("/exit\n")
    assert chat.ended() == 0


@pytest.mark.slow
def test_commands_and_mistakes(chat: Terminal, runs: Path, tmp_path: Path) -> None:
    everything = chat.turn("/help")
    assert re.findall(r"^ +/(\w+)", everything, flags=re.MULTILINE) == [
        "help", "clear", "save", "temperature", "model", "tokens", "exit",
    ]  # fmt: skip
    assert "There is no command /hlep; did you mean 'help'?" in chat.turn("/hlep")
    assert "There is no command /xyz." in chat.turn("/xyz 3")
    assert "The temperature is 0." in chat.turn("/temperature")
    assert "The temperature is 1.5." in chat.turn("/temperature 1.5")
    assert "temperature is -1" in chat.turn("/temperature -1")
    assert "'warm' is not a number" in chat.turn("/temperature warm")
    assert "The temperature is 0." in chat.turn("/temperature 0")
    assert "takes no argument" in chat.turn("/clear all")
    assert "context is 128 tokens" in chat.turn("/tokens")
    assert "Nothing is said yet" in chat.turn("/save x")
    assert "Hi Ada." in chat.turn("  My name is Ada")
    assert "needs the name of a file" in chat.turn("/save")
    (tmp_path / "notes").write_text("mine")
    assert "exists already" in chat.turn(f"/save {tmp_path / 'notes'}").replace("\n", " ")
    assert (tmp_path / "notes").read_text() == "mine"
    for _ in range(2):
        assert "Saved 2 messages" in chat.turn(f"/save {tmp_path / 'new'}")
    assert "There is no model in nowhere" in chat.turn("/model nowhere")
    there = chat.turn("/model")
    assert "taught/sft" in there and "singing/base" in there
    assert "needs 204 tokens" in chat.turn("x" * 200)
    assert "Ada." in chat.turn("What is my name?"), "mistakes leave the conversation as it was"
    base = chat.turn(f"/model {runs / 'singing'}")
    assert "singing/base" in base and "base model" in base
    chat.type(CTRL_D)
    assert chat.ended() == 0


@pytest.mark.slow
def test_a_conversation_beyond_the_context(chat: Terminal) -> None:
    answers = [chat.turn("My name is Ada") for _ in range(6)]
    notes = ["longer than the context of 128 tokens" in answer for answer in answers]
    assert notes[:2] == [False, False] and any(notes)
    chat.turn("/clear")
    assert "longer" not in chat.turn("My name is Ada")


def stop_an_answer(chat: Terminal) -> None:
    chat.type("la\n")
    chat.until(r"la\n(?s:.{300,})")
    chat.type(CTRL_C)
    chat.until(r"\d tokens, [\d,]+ tok/s, stopped\n(?s:.*)> $")


@pytest.mark.slow
def test_ctrl_c_stops_the_answer_and_not_the_program(runs: Path) -> None:
    chat = Terminal(runs, "singing", "--max-new-tokens", "100000000", "--temperature", "0")
    try:
        chat.until("> $")
        stop_an_answer(chat)
        assert "␛[31mred␇ la" in chat.raw and "\x1b[31m" not in chat.raw, "a model cannot steer the terminal"
        for _ in range(2):  # a line that is thrown away ends nothing
            chat.type("half a line")
            chat.until("half a line")
            chat.interrupt()
            chat.until("\n> $")
        chat.interrupt()
        chat.until(r"Ctrl-C again.*\n> $")
        stop_an_answer(chat)
        chat.interrupt()
        assert chat.ended() == 0
    finally:
        chat.close()


def answer_once(runs: Path, *arguments: str, input: bytes = b"") -> subprocess.CompletedProcess[str]:
    return run_program(*COMMAND, *arguments, environment=environment(runs), input=input)


@pytest.mark.slow
def test_one_prompt_gives_plain_text(runs: Path) -> None:
    once = answer_once(runs, str(runs / "taught"), "-p", "What is 12*7?", "--temperature", "0")
    assert (once.returncode, once.stdout, once.stderr) == (0, "It is 84.\n", "")
    piped = answer_once(runs, "taught/sft", "--temperature", "0", input=b"My name is Ada")
    assert (piped.returncode, piped.stdout, piped.stderr) == (0, "Hi Ada.\n", "")
    os.utime(runs / "taught/sft/model/model.safetensors")
    newest = answer_once(runs, "--prompt", "What is my name?", "--temperature", "0.1", "--top-k", "5", "--top-p", "0.9")
    assert newest.stdout == "I do not know.\n"


@pytest.mark.slow
def test_what_is_no_utf_8_is_read_with_replacements(runs: Path) -> None:
    arguments = ("taught/sft", "--temperature", "0", "--max-new-tokens", "20")
    as_argument = answer_once(runs, *arguments, "-p", os.fsdecode(b"\xff"))
    piped = answer_once(runs, *arguments, input=b"My name is Ada\xff\xc3")
    for result in (as_argument, piped):
        assert result.returncode == 0 and result.stdout and not result.stderr


@pytest.mark.slow
def test_whoever_stops_reading_or_interrupts_sees_no_traceback(runs: Path) -> None:
    arguments = [sys.executable, *COMMAND, "singing", "-p", "la", "--max-new-tokens", "100000000", "--temperature", "0"]
    for end in (None, signal.SIGINT):
        with subprocess.Popen(
            arguments, cwd=REPOSITORY, env=environment(runs), stdout=subprocess.PIPE, stderr=subprocess.PIPE
        ) as process:
            assert process.stdout and process.stderr
            assert "red" in process.stdout.read(50).decode()
            if end is None:
                process.stdout.close()
            else:
                process.send_signal(end)
            errors = process.stderr.read().decode()
            assert process.wait(timeout=60) == (0 if end is None else 130)
            assert errors.strip() == ("" if end is None else "Interrupted.")


@pytest.mark.slow
def test_mistakes_end_with_a_sentence(runs: Path, tmp_path: Path) -> None:
    for arguments, said in {
        ("nowhere",): "There is no model in nowhere",
        ("taught@5",): "There is no checkpoint of step 5",
        ("taught", "--temperature", "-1"): "temperature is -1",
        ("taught", "--top-p", "2"): "top_p is 2",
        ("taught", "-p", "x" * 500): "needs 504 tokens",
    }.items():
        result = answer_once(runs, *arguments, input=b"hi")
        assert result.returncode == 2 and said in result.stderr and "Traceback" not in result.stderr
    empty = answer_once(tmp_path, input=b"hi")
    assert empty.returncode == 2 and "Train one with `python train.py`" in empty.stderr
