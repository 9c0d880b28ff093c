"""doctor stuck: the stack dumps of a run read: where each process was, who is different, and why."""

import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from nanochat_pl.core.findings import read_events, read_findings
from nanochat_pl.core.run_folder import RunFolder, as_object, read_object
from nanochat_pl.diagnosis.diagnosis import Diagnosis, Examination
from nanochat_pl.diagnosis.subject import is_training

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
    ("compile", ("torch/_inductor/", "torch/_dynamo/")),
    ("network", ("huggingface_hub", "nanochat_pl/data/hub/", "urllib3/", "http/client.py", "httpx", "wandb/")),
    ("loader", ("nanochat_pl/data/", "torch/utils/data/", "loops/fetchers.py", "data/background", "/queue.py",
                "multiprocessing/queues.py", "nanochat_pl/tokenizers/")),
    ("gc", ("callbacks/gc.py", "Garbage-collecting")),
    ("collective", ("torch/distributed/", "torch/nn/parallel/distributed.py", "torch/autograd/graph.py")),
    ("step", ("nanochat_pl/stages/", "nanochat_pl/optim/", "nanochat_pl/models/", "nanochat_pl/nn/", "torch/")),
)  # fmt: skip
"""What a thread was at -> parts of files that only then are on its stack; the first that is found names it."""
WORDS = {
    "checkpoint": "writes or reads a checkpoint or model",
    "evaluation": "evaluates",
    "compile": "compiles kernels",
    "network": "waits for the network",
    "loader": "waits for or prepares data",
    "gc": "collects garbage",
    "collective": "waits for the other processes",
    "step": "computes a step",
    "elsewhere": "is outside of the training",
    "unknown": "does not say where it is",
}
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
    "step": "The device computes, or hangs: python -m nanochat_pl doctor gpu; where a step may take so long, raise "
    "hw.timeout_seconds.",
    "elsewhere": "Look at the stack below.",
    "unknown": "Look at the file.",
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

    @property
    def cause(self) -> str:
        """What it was at, of `CAUSES`."""
        if not self.frames:
            return "unknown"
        if self.collecting:
            return "gc"
        files = [file.replace("\\", "/") for file, _, _ in self.frames]
        # A wait for others is told by the innermost frames; what it is a part of, by those around.
        if _any(files[:6], dict(CAUSES)["collective"]):
            return "collective"
        return next((cause for cause, parts in CAUSES if _any(files, parts)), "elsewhere")

    @property
    def place(self) -> str:
        """Its innermost frame that is not a library's."""
        own = (frame for frame in self.frames if "site-packages" not in frame[0] and "/lib/python" not in frame[0])
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
    if summary.get("status") == "running" and not is_training(run):
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
    culprits, cause = suspects(mains, silent)
    who = f"rank {', '.join(map(str, culprits))}" if culprits else "all processes"
    diagnosis.wrong(
        f"Something hung {when}; the likely cause: {_cause_in_words(mains, silent, culprits, cause, who)}.",
        ADVICE["unknown"] if cause == "silent" else ADVICE[cause],
    )
    for rank, thread in mains.items():
        odd = " <- different" if rank in culprits and len(mains) > 1 else ""
        inner = f", in {thread.innermost}" if thread.innermost != thread.place else ""
        diagnosis.info(f"Rank {rank} {WORDS[thread.cause]}: {thread.place}{inner}{odd}")
    diagnosis.artifacts += [path for _, path in sorted(dumps.items())]


def suspects(mains: dict[int, Thread], silent: Sequence[int]) -> tuple[list[int], str]:
    """(the ranks at fault, the cause); no rank where all are alike.

    Args:
        silent: ranks without a dump.
    """
    if silent:
        return list(silent), "silent"
    busy = [rank for rank, thread in mains.items() if thread.cause != "collective"]
    if len(mains) == 1 or (busy and len(busy) < len(mains)):
        return (busy if len(mains) > 1 else []), mains[(busy or list(mains))[0]].cause
    places = Counter((thread.cause, thread.place) for thread in mains.values())
    (most, _), *rest = places.most_common()
    odd = [rank for rank, thread in mains.items() if (thread.cause, thread.place) != most]
    if rest and len(odd) < len(mains) / 2:
        return odd, mains[odd[0]].cause
    return [], most[0]


def _cause_in_words(mains: dict[int, Thread], silent: list[int], culprits: list[int], cause: str, who: str) -> str:
    if silent:
        return f"{who} wrote no stacks: stopped, stuck in native code, or its machine is gone"
    if culprits and cause == "collective":
        return f"{who} waits in another place than the others: the processes did not call the same in the same order"
    if culprits:
        return f"{who} {WORDS[cause]}, and the others wait for it"
    one = "the process" if len(mains) == 1 else "each process"
    return f"{one} {WORDS[cause]}"


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
