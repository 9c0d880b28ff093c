"""The chat's screen: lines in, coloured answers out, and the commands that begin with a slash."""

import contextlib
import dataclasses
import json
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from types import FrameType

from rich.console import Console

from nanochat_pl.checkpoint.named_model import find_named_model, model_folders
from nanochat_pl.cli.chat_session import ChatSession
from nanochat_pl.core.errors import MachineError, UserError, nearest
from nanochat_pl.core.paths import runs_root, write_text
from nanochat_pl.inference.answer import Part

PROMPT = "> "

CONTROLS = {code: 0x2400 + code for code in range(32) if chr(code) not in "\n\t"}
CONTROLS |= {0x7F: 0x2421} | dict.fromkeys(range(0x80, 0xA0), 0xFFFD)
"""What a model may write that would move the cursor or recolour the terminal -> a picture of it."""

STYLES = {"text": None, "python": "cyan", "python_output": "green"}

JOINTS = {
    ("text", "python"): "[",
    ("text", "python_output"): "[= ",
    ("python", "python_output"): " = ",
    ("python", "text"): "]",
    ("python_output", "text"): "]",
    ("python_output", "python"): "] [",
}
"""What stands between parts of different kinds: a tool call is shown as [12*7 = 84]."""


class AnswerPrinter:
    """Prints the parts of one answer as they come."""

    def __init__(self, console: Console):
        self._console, self._kind = console, "text"

    def show(self, part: Part) -> None:
        self._go_to(part.kind)
        self._console.out(part.text.translate(CONTROLS), style=STYLES[part.kind], highlight=False, end="")

    def end(self) -> None:
        self._go_to("text")
        self._console.out("")

    def _go_to(self, kind: str) -> None:
        if kind != self._kind:
            self._console.out(JOINTS[self._kind, kind], style=STYLES["python"], highlight=False, end="")
            self._kind = kind


class ChatTerminal:
    """Reads lines until Ctrl-D, /exit, or Ctrl-C where nothing is typed and the last thing was Ctrl-C too."""

    def __init__(self, session: ChatSession):
        self._session = session
        self._console = Console(highlight=False, markup=False)
        self._commands: dict[str, tuple[str, str, Callable[[str], None]]] = {
            "help": ("", "list the commands", self._help),
            "clear": ("", "forget what was said", self._clear),
            "save": ("FILE", "write the conversation to a file, as one line of JSON", self._save),
            "temperature": ("X", "draw the next answers with it; 0 takes the likeliest token", self._temperature),
            "model": ("PATH", "go on with another model", self._model),
            "tokens": ("", "how much of the context is used", self._tokens),
            "exit": ("", "end the chat", self._exit),
        }
        self._saved: set[Path] = set()
        self._dropped_messages = 0
        self._ended = False

    def run(self) -> None:
        """Talk until the user ends it."""
        line_typed = _line_editing()
        self._introduce()
        interrupted = False  # by the last thing that the user did
        while not self._ended:
            try:
                interrupted = self._take(input(PROMPT))
            except EOFError:
                self._console.out("")
                return
            except KeyboardInterrupt:
                self._console.out("")
                if line_typed():
                    interrupted = False
                elif interrupted:
                    return
                else:
                    interrupted = True
                    self._note("Ctrl-C again, Ctrl-D or /exit ends the chat.")

    def _take(self, line: str) -> bool:
        """Do what a line says; whether it was interrupted by Ctrl-C."""
        try:
            if line.startswith("/"):
                name, _, argument = line[1:].partition(" ")
                self._command(name, argument.strip())
            elif text := line.strip():
                return self._answer(text)
        except (UserError, MachineError) as error:
            self._console.print(str(error), style="red")
        return False

    def _answer(self, text: str) -> bool:
        printer = AnswerPrinter(self._console)
        with _ctrl_c_noticed() as interrupted:
            for part in self._session.ask(text, interrupted):
                printer.show(part)
            printer.end()
            self._report(interrupted())
            return interrupted()

    def _report(self, interrupted: bool) -> None:
        """How fast the answer came, and what the user should know of it."""
        facts, session = self._session.newest, self._session
        assert facts is not None, "there was an answer"
        speed = facts.sampled_tokens / max(facts.seconds, 1e-9)
        ends = {"length": f", ended after {session.sampling.max_new_tokens} (--max-new-tokens)", "stop": ""}
        end = ", stopped" if interrupted else ends[facts.finish or "stop"]
        self._note(f"{facts.sampled_tokens} tokens, {speed:,.0f} tok/s{end}")
        if facts.dropped_messages > self._dropped_messages:
            self._console.print(
                f"The conversation is longer than the context of {session.context_tokens} tokens: the model no longer "
                f"sees the oldest {facts.dropped_messages} messages. /clear begins a new one.",
                style="yellow",
            )
        self._dropped_messages = facts.dropped_messages

    def _introduce(self) -> None:
        loaded, session = self._session.loaded, self._session
        parameters = sum(parameter.numel() for parameter in loaded.model.parameters())
        step = f", step {loaded.facts['step']:,.0f}" if "step" in loaded.facts else ""
        self._note(
            f"{session.name}: {parameters / 1e6:,.1f}M parameters{step}, context of {session.context_tokens} tokens. "
            "/help lists the commands."
        )
        if not loaded.is_chat:
            self._note("It is a base model, which continues your text; it has not learned to answer.")

    def _note(self, text: str) -> None:
        self._console.print(text, style="dim")

    def _command(self, name: str, argument: str) -> None:
        if name not in self._commands:
            raise UserError(
                f"There is no command /{name}{nearest(name, list(self._commands))} "
                "/help lists them. To say something that begins with a slash, put a space before it."
            )
        usage, _, command = self._commands[name]
        if argument and not usage:
            raise UserError(f"/{name} takes no argument.")
        command(argument)

    def _help(self, _: str) -> None:
        for name, (usage, meaning, _command) in self._commands.items():
            self._console.print(f"  {f'/{name} {usage}':<16} {meaning}")
        self._note("Ctrl-C stops an answer; Ctrl-D ends the chat.")

    def _clear(self, _: str) -> None:
        self._session.clear()
        self._dropped_messages = 0
        self._note("A new conversation.")

    def _save(self, argument: str) -> None:
        if not argument:
            raise UserError("/save needs the name of a file, such as /save chat.jsonl.")
        if not self._session.messages:
            raise UserError("Nothing is said yet, so there is nothing to save.")
        path = Path(argument).expanduser().absolute()
        if path.exists() and path not in self._saved:
            raise UserError(f"{path} exists already and is left as it is. Give another name.")
        write_text(path, json.dumps(self._session.messages, ensure_ascii=False) + "\n")
        self._saved.add(path)
        self._note(f"Saved {len(self._session.messages)} messages to {path}.")

    def _temperature(self, argument: str) -> None:
        if argument:
            try:
                temperature = float(argument)
            except ValueError:
                raise UserError(f"The temperature {argument!r} is not a number, such as 0.8.") from None
            self._session.sampling = dataclasses.replace(self._session.sampling, temperature=temperature)
        self._note(f"The temperature is {self._session.sampling.temperature:g}.")

    def _model(self, argument: str) -> None:
        if argument:
            self._session.load(find_named_model(argument))
            return self._introduce()
        self._introduce()
        for folder in model_folders(runs_root()):
            self._note(f"  {folder.parent if folder.name == 'model' else folder}")

    def _tokens(self, _: str) -> None:
        session, facts = self._session, self._session.newest
        if facts is None:
            return self._note(f"Nothing is said yet; the context is {session.context_tokens} tokens.")
        self._note(
            f"{facts.prompt_tokens} tokens before the newest answer and {facts.answer_tokens} in it; the context is "
            f"{session.context_tokens} tokens."
        )

    def _exit(self, _: str) -> None:
        self._ended = True


def _line_editing() -> Callable[[], str]:
    """Gives `input` a history and lines that can be edited; what returns the line that Ctrl-C took away."""
    try:
        import readline
    except ImportError:  # Windows
        return str
    return readline.get_line_buffer


@contextlib.contextmanager
def _ctrl_c_noticed() -> Iterator[Callable[[], bool]]:
    """While inside, Ctrl-C raises nothing; yields what says whether it was pressed.

    An exception in the middle of a step would leave the engine's cache half changed.
    """
    pressed = False

    def notice(number: int, frame: FrameType | None) -> None:
        nonlocal pressed
        pressed = True

    before = signal.signal(signal.SIGINT, notice)
    try:
        yield lambda: pressed
    finally:
        signal.signal(signal.SIGINT, before)
