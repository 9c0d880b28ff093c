"""doctor stuck: the stack dumps of a run read: where each process was, who is different, and why."""

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path

from nanochat_pl.core import stacks
from nanochat_pl.core.findings import read_events, read_findings
from nanochat_pl.core.run_folder import RunFolder, as_object, read_object
from nanochat_pl.core.stacks import Thread
from nanochat_pl.diagnosis.diagnosis import Diagnosis, examining

DUMP = re.compile(r"(?:stuck-step-(?P<step>\d+)\.)?rank-(?P<rank>\d+)\.txt")
THREAD = re.compile(r"(?P<current>Current thread|Thread) 0x[0-9a-f]+(?P<name> \[.*\])? \(most recent call first\):")
FRAME = re.compile(r'  File "(?P<file>.*)", line (?P<line>\d+|\?\?\?) in (?P<function>.*)')
MOST_BYTES = 1 << 20
"""Of one dump that is read."""
MOST_RANKS = 4096

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
ADVICE = stacks.ADVICE | {
    "unknown": "Look at the file.",
    "silent": "Look at its machine (dmesg, nvidia-smi); the same training command goes on from the last checkpoint.",
}


def diagnose(run: RunFolder) -> Diagnosis:
    """Read the dumps of the run's last hang."""
    diagnosis = Diagnosis("stuck", str(run.path))
    folder = run.path / "stacks"
    with examining(diagnosis, "The stack dumps"):
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
    return next(filter(_is_main, reversed(threads)), Thread(()))


def _is_main(thread: Thread) -> bool:
    """Whether it is no thread that Python has started."""
    return bool(thread.frames) and not thread.frames[-1][0].endswith(("/threading.py", "\\threading.py"))


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
