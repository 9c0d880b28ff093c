"""The errors that end the program, and the exit code that each one documents."""

import difflib
from collections.abc import Sequence

EXIT_USER = 2
EXIT_MACHINE = 3
EXIT_DIVERGED = 4
EXIT_SIGINT = 130
EXIT_SIGUSR2 = 140
EXIT_SIGTERM = 143


class UserError(ValueError):
    """The user's mistake: the message says what, where and what to do (exit code 2)."""

    exit_code = EXIT_USER


class MachineError(RuntimeError):
    """The machine's fault, such as a full disk or no network (exit code 3)."""

    exit_code = EXIT_MACHINE


class DivergedError(RuntimeError):
    """The training produced a NaN or infinite loss (exit code 4)."""

    exit_code = EXIT_DIVERGED


class Interrupted(RuntimeError):
    """A signal stopped the training after it saved its state (exit code 128 + the signal's number)."""

    def __init__(self, message: str, exit_code: int):
        super().__init__(message)
        self.exit_code = exit_code


class EndedError(RuntimeError):
    """A training's own processes ended with this exit code, and have said why."""

    def __init__(self, exit_code: int):
        super().__init__(f"Its processes ended with exit code {exit_code}; what they said stands above.")
        self.exit_code = exit_code


def nearest_multiples(value: int, unit: int) -> str:
    """The positive multiples of `unit` on both sides of `value`: "128 or 192"."""
    below = value // unit * unit
    return f"{below} or {below + unit}" if below else str(unit)


def nearest(word: str, candidates: Sequence[str]) -> str:
    """The end of a sentence about an unknown word: "; did you mean 'x'?" for the candidate most like it, else "."."""
    close = difflib.get_close_matches(word, candidates, n=1, cutoff=0.6)
    return f"; did you mean '{close[0]}'?" if close else "."
