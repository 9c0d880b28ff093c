"""What a thread is at, by its stack: one of now, or one that was written down."""

import contextlib
import faulthandler
import linecache
import re
import sys
import threading
import traceback
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Self

CAUSES: tuple[tuple[str, tuple[str, ...]], ...] = (
    ("checkpoint", ("callbacks/checkpoints", "nanochat_pl/checkpoint/", "torch/serialization.py", "callbacks/export",
                    "lightning/fabric/utilities/cloud_io")),
    ("evaluation", ("callbacks/evaluate", "nanochat_pl/evals/", "callbacks/samples", "loops/evaluation_loop.py")),
    ("compile", ("torch/_inductor/compile", "torch/_inductor/codecache", "torch/_dynamo/convert_frame")),
    ("network", ("huggingface_hub", "nanochat_pl/data/hub/", "urllib3/", "http/client.py", "httpx", "wandb/")),
    ("loader", ("nanochat_pl/data/", "torch/utils/data/", "loops/fetchers.py", "/queue.py",
                "multiprocessing/queues.py")),
    ("gc", ("callbacks/gc.py",)),
)  # fmt: skip
"""What a thread is at -> parts of "file function" that are on its stack only then; the innermost counts."""
OTHERWISE: tuple[tuple[str, tuple[str, ...]], ...] = (
    ("callback", ("trainer/call.py _call_callback_hooks",)),
    ("step", ("nanochat_pl/stages/", "nanochat_pl/optim/", "nanochat_pl/models/", "nanochat_pl/nn/",
              "site-packages/torch/")),
)  # fmt: skip
WAITING_IN = ("torch/distributed/",)
"""Files in whose innermost frames a process waits for others."""
WAITING_AT = ("torch/autograd/graph.py", "torch/nn/parallel/distributed.py")
"""Where it does if nothing is further in: gradients are averaged in the backward pass."""
WAITING_FOR = re.compile(r"\.(item|tolist|cpu|synchronize)\(")
"""Calls that wait for the own device."""
INNERMOST = 6
NOT_OWN = ("site-packages", "/lib/python", "<frozen", "<string>")
ADVICE = {
    "checkpoint": "Look at the disk: is it full, or a network folder that hangs? NANOCHAT_PL_RUNS moves the runs.",
    "evaluation": "It may only be slow: fewer data.val_tokens, or callbacks.evaluate.max_per_task=N asks fewer "
    "questions. Where one process alone evaluates while others wait, raise hw.timeout_seconds.",
    "compile": "The first step of a compiled model takes minutes; where that is too long: hw.compile=false.",
    "network": "The connection or the other side does not answer. What is in the cache needs none: "
    "python -m nanochat_pl data download",
    "loader": "The data come too slowly: python -m nanochat_pl doctor data; more hw.loader_threads, or tokenize "
    "beforehand: python -m nanochat_pl data prepare",
    "gc": "Collecting took very long: far too many objects live. callbacks.gc.every_n_steps=100 does it less often.",
    "collective": "See the stacks of the other ranks; where all wait for each other, a device or the network between "
    "them is broken. Test it: python -m nanochat_pl doctor distributed",
    "callback": "See what it waits for there; callbacks.NAME=null trains without it.",
    "step": "The device computes, or hangs: python -m nanochat_pl doctor gpu; where a step may take so long, raise "
    "hw.timeout_seconds.",
    "device": "The device computes, hangs, or waits for the others' devices: python -m nanochat_pl doctor gpu",
    "elsewhere": "Look at the stack.",
}


@dataclass(frozen=True)
class Thread:
    """One thread's stack.

    Attributes:
        frames: (file, line, function), the innermost first.
        collecting: it collects garbage.
    """

    frames: tuple[tuple[str, str, str], ...]
    collecting: bool = False

    @classmethod
    def main(cls, collecting: bool = False) -> Self:
        """This process's first one, as it stands now."""
        frame = sys._current_frames()[threading.main_thread().ident or 0]
        stack = traceback.walk_stack(frame)
        return cls(tuple((f.f_code.co_filename, str(line), f.f_code.co_name) for f, line in stack), collecting)

    def waits_for(self, alone: bool) -> str | None:
        """ "collective": the other processes; "device": its own.

        Args:
            alone: the run has no other process.
        """
        files = self._files()
        file, line, _ = self.frames[0] if self.frames else ("", "", "")
        words = linecache.getline(file, int(line)) if line.isdecimal() else ""
        awaited = ".wait(" in words and _any(files[:1], ("nanochat_pl/optim/", "site-packages/torch/"))
        if _any(files[:INNERMOST], WAITING_IN) or (not alone and (awaited or _any(files[:1], WAITING_AT))):
            return "collective"
        return "device" if WAITING_FOR.search(words) else None

    def cause(self, alone: bool) -> str:
        """What it is at: of `ADVICE`, or unknown."""
        if not self.frames:
            return "unknown"
        waits = self.waits_for(alone)
        if self.collecting or waits == "collective":
            return "gc" if self.collecting else "collective"
        files = self._files()
        known = next((cause for file in files for cause, parts in CAUSES if _any([file], parts)), None)
        at = known or next((cause for cause, parts in OTHERWISE if _any(files, parts)), "elsewhere")
        return "device" if waits and at in ("step", "callback") else at

    @property
    def place(self) -> str:
        """Its innermost frame that is not a library's."""
        own = (frame for frame in self.frames if not _any(frame[:1], NOT_OWN))
        return _words(next(own, self.frames[0] if self.frames else ("?", "?", "?")))

    @property
    def innermost(self) -> str:
        return _words(self.frames[0] if self.frames else ("?", "?", "?"))

    def _files(self) -> list[str]:
        return [f"{file} {function}".replace("\\", "/") for file, _, function in self.frames]


def write_stacks(path: Path) -> None:
    """Write down the stacks of all threads of this process, where the disk has room."""
    with contextlib.suppress(OSError):
        path.parent.mkdir(exist_ok=True)
        with path.open("w", encoding="utf-8") as file:
            faulthandler.dump_traceback(file, all_threads=True)


def _any(files: Sequence[str], parts: Sequence[str]) -> bool:
    return any(part in file for file in files for part in parts)


def _words(frame: tuple[str, str, str]) -> str:
    """With the file from the package on, or its last two parts."""
    file, line, function = frame
    parts = re.split(r"[/\\]", file)
    for package, skipped in (("site-packages", 1), ("nanochat_pl", 0)):
        if package in parts:
            return f"{'/'.join(parts[parts.index(package) + skipped :])}:{line} in {function}"
    return f"{'/'.join(parts[-2:])}:{line} in {function}"
