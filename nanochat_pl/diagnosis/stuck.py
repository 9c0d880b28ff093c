"""doctor stuck: the stack dumps of a run read: where each process was, who is different, and why."""

import linecache
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from nanochat_pl.core.findings import read_events, read_findings
from nanochat_pl.core.run_folder import RunFolder, as_object, read_object
from nanochat_pl.diagnosis.diagnosis import Diagnosis, Examination

DUMP = re.compile(r"(?:stuck-step-(?P<step>\d+)\.)?rank-(?P<rank>\d+)\.txt")
THREAD = re.compile(r"(?P<current>Current thread|Thread) 0x[0-9a-f]+(?P<name> \[.*\])? \(most recent call first\):")
FRAME = re.compile(r'  File "(?P<file>.*)", line (?P<line>\d+|\?\?\?) in (?P<function>.*)')
MOST_BYTES = 1 << 20
"""Of one dump that is read."""
MOST_RANKS = 4096

CAUSES: tuple[tuple[str, tuple[str, ...]], ...] = (
    ("checkpoint", ("callbacks/checkpoints", "checkpoint/saved", "torch/serialization.py", "callbacks/export",
                    "checkpoint/model_folder", "lightning/fabric/utilities/cloud_io")),
    ("evaluation", ("callbacks/evaluate", "nanochat_pl/evals/", "callbacks/samples", "loops/evaluation_loop.py")),
    ("compile", ("torch/_inductor/compile", "torch/_inductor/codecache", "torch/_dynamo/convert_frame")),
    ("network", ("huggingface_hub", "nanochat_pl/data/hub/", "urllib3/", "http/client.py", "httpx", "wandb/")),
    ("loader", ("nanochat_pl/data/", "torch/utils/data/", "loops/fetchers.py", "data/background", "/queue.py",
                "multiprocessing/queues.py", "nanochat_pl/tokenizers/")),
    ("gc", ("callbacks/gc.py", "Garbage-collecting")),
    ("callback", ("trainer/call.py _call_callback_hooks",)),
    ("step", ("nanochat_pl/stages/", "nanochat_pl/optim/", "nanochat_pl/models/", "nanochat_pl/nn/",
              "site-packages/torch/")),
)  # fmt: skip
"""What a thread was at -> parts of "file function" that are on its stack only then; the first that is found counts."""
WAITING_IN = ("torch/distributed/", "torch/nn/parallel/distributed.py")
"""Files in whose innermost frames a process waits for others; in the backward pass gradients are averaged, too."""
BACKWARD = "torch/autograd/graph.py"
WAITING_FOR = re.compile(r"\.(item|tolist|cpu|synchronize)\(")
"""Calls that wait for the own device."""
INNERMOST = 6
NOT_OWN = ("site-packages", "/lib/python", "<frozen", "<string>")
WORDS = {
    "checkpoint": "writes or reads a checkpoint or model",
    "evaluation": "evaluates",
    "compile": "compiles kernels",
    "network": "waits for the network",
    "loader": "waits for or prepares data",
    "gc": "collects garbage",
    "collective": "waits for the other processes",
    "device": "waits for its device",
    "callback": "is in a callback",
    "step": "computes a step",
    "elsewhere": "is outside of the training",
    "unknown": "does not say where it is",
}
WAITING = ("collective", "device")
ADVICE = {
    "checkpoint": "Look at the disk: is it full, or a network folder that hangs? NANOCHAT_PL_RUNS moves the runs.",
    "evaluation": "It may only be slow: callbacks.evaluate.max_per_task=N asks fewer questions. Where one process "
    "alone evaluates while others wait, raise hw.timeout_seconds.",
    "compile": "The first step of a compiled model takes minutes; where that is too long: hw.compile=false.",
    "network": "The connection or the other side does not answer. What is in the cache needs none: "
    "python -m nanochat_pl data download",
    "loader": "The data come too slowly: python -m nanochat_pl doctor data; more hw.loader_threads, or tokenize "
    "beforehand: python -m nanochat_pl data prepare",
    "gc": "Collecting took very long: far too many objects live. callbacks.gc.every_n_steps=100 does it less often.",
    "collective": "All wait for each other: a device or the network between them is broken. Test it: "
    "python -m nanochat_pl doctor distributed",
    "callback": "See what it waits for there; callbacks.NAME=null trains without it.",
    "step": "The device computes, or hangs: python -m nanochat_pl doctor gpu; where a step may take so long, raise "
    "hw.timeout_seconds.",
    "device": "The device computes, hangs, or waits for the others' devices: python -m nanochat_pl doctor gpu",
    "elsewhere": "Look at the stack below.",
    "unknown": "Look at the file.",
    "silent": "Look at its machine (dmesg, nvidia-smi); the same training command goes on from the last checkpoint.",
}


@dataclass(frozen=True)
class Thread:
    """One thread's stack.

    Attributes:
        frames: (file, line, function), the innermost first.
        collecting: it collects garbage.
        whole: its outermost frame is there: faulthandler cuts stacks that are deeper than 100.
    """

    frames: tuple[tuple[str, str, str], ...]
    collecting: bool = False

    @property
    def is_main(self) -> bool:
        """Whether it is no thread that Python has started."""
        outermost = self.frames[-1] if self.frames else ("", "", "")
        return bool(self.frames) and not outermost[0].endswith(("/threading.py", "\\threading.py"))

    def cause(self, alone: bool) -> str:
        """What it was at, of `WORDS`.

        Args:
            alone: the run has no other process.
        """
        if not self.frames:
            return "unknown"
        if self.collecting:
            return "gc"
        files = [f"{file} {function}".replace("\\", "/") for file, _, function in self.frames]
        # A wait is told by the innermost frames; what it is a part of, by those around.
        if _any(files[:INNERMOST], WAITING_IN) or (not alone and BACKWARD in files[0]):
            return "collective"
        at = next((cause for cause, parts in CAUSES if _any(files, parts)), "elsewhere")
        file, line, _ = self.frames[0]
        waits = line.isdecimal() and WAITING_FOR.search(linecache.getline(file, int(line)))
        return "device" if waits and at in ("step", "callback") else at

    @property
    def place(self) -> str:
        """Its innermost frame that is not a library's."""
        own = (frame for frame in self.frames if not _any(frame[:1], NOT_OWN))
        file, line, function = next(own, self.frames[0] if self.frames else ("?", "?", "?"))
        return f"{_short(file)}:{line} in {function}"

    @property
    def innermost(self) -> str:
        file, line, function = self.frames[0] if self.frames else ("?", "?", "?")
        return f"{_short(file)}:{line} in {function}"


def diagnose(run: RunFolder) -> Diagnosis:
    """Read the dumps of the run's last hang."""
    diagnosis = Diagnosis("stuck", str(run.path))
    folder = run.path / "stacks"
    with Examination(diagnosis, "The stack dumps"):
        incidents = find_incidents(folder)
        if not incidents:
            diagnosis.good("There are no stack dumps: no process of this run was found hanging.")
        else:
            step, dumps = incidents[-1]
            _judge(diagnosis, run, step, dumps)
            if len(incidents) > 1:
                earlier = ", ".join("the end" if other is None else f"step {other}" for other, _ in incidents[:-1])
                diagnosis.info(f"There are dumps of earlier times too: {earlier}.")
    for event in [event for event in read_events(run) if event["event"] == "hang"][-1:]:
        diagnosis.info(f"The run said at its end: {str(event.get('message', ''))[:1000]}")
    for finding in [finding for finding in read_findings(run) if finding.kind == "stuck"][-1:]:
        diagnosis.info(f"The monitor said at step {finding.step}: {finding.message}")
    summary = run.read_summary()
    if summary.get("status") == "running" and not run.is_held():
        diagnosis.warn(
            "summary.json says that the run is running, but no process holds its folder: it was killed, or the machine "
            "went down.",
            "The same training command goes on from the last checkpoint.",
        )
    return diagnosis


def find_incidents(folder: Path) -> list[tuple[int | None, dict[int, Path]]]:
    """(step, rank -> its dump), those written last at the end; the step is None where the run was ended."""
    incidents: dict[int | None, dict[int, Path]] = {}
    for path in sorted(folder.glob("*.txt")) if folder.is_dir() else []:
        if match := DUMP.fullmatch(path.name):
            step = int(match["step"]) if match["step"] else None
            incidents.setdefault(step, {})[int(match["rank"])] = path
    return sorted(incidents.items(), key=lambda one: max(path.stat().st_mtime for path in one[1].values()))


def parse_dump(text: str) -> list[Thread]:
    """The threads of a dump as faulthandler writes it; lines that are no part of one are passed over."""
    threads: list[tuple[list[tuple[str, str, str]], list[bool]]] = []
    for line in text.splitlines():
        if THREAD.match(line):
            threads.append(([], []))
        elif threads and (match := FRAME.match(line)):
            threads[-1][0].append((match["file"], match["line"], match["function"]))
        elif threads and line.strip() == "Garbage-collecting":
            threads[-1][1].append(True)
    return [Thread(tuple(frames), bool(collecting)) for frames, collecting in threads]


def main_thread(threads: Sequence[Thread]) -> Thread:
    """The process's first thread: faulthandler writes it last."""
    return next((thread for thread in reversed(threads) if thread.is_main), Thread(()))


def _judge(diagnosis: Diagnosis, run: RunFolder, step: int | None, dumps: dict[int, Path]) -> None:
    mains: dict[int, Thread] = {}
    for rank, path in sorted(dumps.items()):
        with path.open("rb") as file:
            threads = parse_dump(file.read(MOST_BYTES).decode("utf-8", "replace"))
        mains[rank] = main_thread(threads)
        if not threads:
            diagnosis.warn(f"{path.name} is empty or no stack dump.", "Its process was killed before it could write.")
    when = "when the run was ended" if step is None else f"after step {step}"
    world_size = _world_size(run)
    silent = [rank for rank in range(world_size) if rank not in dumps]
    alone = max(world_size, len(mains)) == 1
    causes = {rank: thread.cause(alone) for rank, thread in mains.items()}
    culprits, cause = suspects(causes, {rank: thread.place for rank, thread in mains.items()}, silent)
    diagnosis.wrong(
        f"Something hung {when}; the likely cause: {_in_words(len(mains), silent, culprits, cause)}.", ADVICE[cause]
    )
    for rank, thread in mains.items():
        odd = " <- different" if rank in culprits and len(mains) > 1 else ""
        inner = f", in {thread.innermost}" if thread.innermost != thread.place else ""
        diagnosis.info(f"Rank {rank} {WORDS[causes[rank]]}: {thread.place}{inner}{odd}")
    diagnosis.artifacts += [path for _, path in sorted(dumps.items())]


def suspects(causes: Mapping[int, str], places: Mapping[int, str], silent: Sequence[int]) -> tuple[list[int], str]:
    """(the ranks at fault, the cause); no rank where all are alike.

    Args:
        causes, places: of each rank that has a dump.
        silent: ranks without one.
    """
    if silent:
        return list(silent), "silent"
    busy = [rank for rank, cause in causes.items() if cause not in WAITING]
    if busy and len(busy) < len(causes):
        return busy, causes[busy[0]]
    seen = Counter((causes[rank], places[rank]) for rank in causes)
    most, _ = seen.most_common(1)[0]
    odd = [rank for rank in causes if (causes[rank], places[rank]) != most]
    if odd and len(odd) < len(causes) / 2:
        return odd, causes[odd[0]]
    return [], most[0]


def _in_words(count: int, silent: Sequence[int], culprits: Sequence[int], cause: str) -> str:
    who = f"rank {', '.join(map(str, culprits))}"
    if silent:
        return f"{who} wrote no stacks: stopped, stuck in native code, or its machine is gone"
    if culprits and cause in WAITING:
        return f"{who} waits in another place than the others: the processes did not call the same in the same order"
    if culprits:
        return f"{who} {WORDS[cause]}, and the others wait for it"
    return f"{'the process' if count == 1 else 'each process'} {WORDS[cause]}"


def _world_size(run: RunFolder) -> int:
    hardware = as_object(read_object(run.resolved).get("hardware"))
    devices, nodes = hardware.get("devices"), hardware.get("nodes")
    return min(devices * nodes, MOST_RANKS) if isinstance(devices, int) and isinstance(nodes, int) else 0


def _any(files: Sequence[str], parts: Sequence[str]) -> bool:
    return any(part in file for file in files for part in parts)


def _short(file: str) -> str:
    """From the package on, or its last two parts."""
    parts = re.split(r"[/\\]", file)
    for name in ("site-packages", "nanochat_pl"):
        if name in parts:
            return "/".join(parts[parts.index(name) + (name == "site-packages") :])
    return "/".join(parts[-2:])
