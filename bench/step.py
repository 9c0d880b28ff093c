"""What a training step takes, and where its time goes: python bench/step.py [--hw cpu] [--recipe d12] [key=value ...]

Runs train.py with its default callbacks on any device (with several devices, on all of them) and ends it before it
validates. Figures are medians over intervals between two log lines. Within an interval nothing waits for a GPU that
would not wait in training: its time is taken by events in its stream, and its share of work by a trace of one step.
"""

import argparse
import json
import statistics
import sys
from pathlib import Path
from typing import Any

from corpus import build_corpus, training_overrides
from rich.console import Console
from rich.table import Table
from timing import Child, environment, scratch

from nanochat_pl.core.chips import Chip


def build_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("overrides", nargs="*", help="more of train.py's arguments")
    parser.add_argument("--hw", help="the hardware profile; default: what is here")
    parser.add_argument("--recipe", help="default: the profile's")
    parser.add_argument("--depth", type=int, help="of a model whose width and heads follow from it")
    parser.add_argument("--sequence-len", type=int)
    parser.add_argument("--tokens-per-device", help="of a micro-batch, or auto")
    parser.add_argument("--vocab-size", type=int, help="train on text made here, offline; default: the recipe's data")
    parser.add_argument("--documents", type=int, default=6000, help="of the text made here")
    parser.add_argument("--steps", type=int, default=10, help="of an interval; as many come before the first")
    parser.add_argument("--intervals", type=int, default=5)
    parser.add_argument("--threads", type=int, help="torch threads; default: torch's choice")
    return parser


def arguments(options: argparse.Namespace, folder: Path, report: Path) -> list[str]:
    """Of the interpreter."""
    chosen: list[str] = []
    if options.vocab_size:
        made = build_corpus(folder, options.documents, 2500)
        chosen += training_overrides(*made, options.vocab_size, hw=None)
    if options.depth:
        chosen += [f"model.depth={options.depth}", "model.n_embd=null", "model.head_dim=128"]
    given = {
        "hw": options.hw,
        "recipe": options.recipe,
        "model.sequence_len": options.sequence_len,
        "hw.tokens_per_device": options.tokens_per_device,
    }
    return [
        "train.py",
        *chosen,
        *(f"{name}={value}" for name, value in given.items() if value),
        "run.name=step",
        "horizon.steps=1000000",
        "trainer.validate_every_n_steps=1000000",
        "callbacks.checkpoints.every_n_minutes=null",
        "callbacks.export=null",
        f"callbacks.metrics.every_n_steps={options.steps}",
        f"callbacks.gc.every_n_steps={options.steps}",
        "+callbacks.intervals._target_=hooks.Intervals",
        f"+callbacks.intervals.path={report}",
        f"+callbacks.intervals.every_n_steps={options.steps}",
        f"+callbacks.intervals.intervals={options.intervals}",
        *options.overrides,
    ]


def tell(facts: dict[str, Any], steps: int) -> None:
    """Print the table of an interval's phases, and the rates."""
    plan, intervals = facts["plan"], facts["seconds"]
    model, hardware = plan["model"], plan["hardware"]
    chip, devices = Chip(**hardware["chip"]), hardware["devices"] * hardware["nodes"]
    whole = [sum(interval["host"].values()) for interval in intervals]
    step = statistics.median(whole) / steps
    rate = plan["total_batch_tokens"] / step
    clock = "device" if "device" in intervals[0] else "host"
    print(
        f"a step of {plan['total_batch_tokens']:,} tokens: {model['n_layer']} layers, width {model['n_embd']}, T "
        f"{model['sequence_len']}, {plan['accumulation']} x {plan['micro_batch_rows']} rows on {devices} x "
        f"{chip.name}, {hardware['precision']}, attention {hardware['attention']}, "
        f"{'compiled' if hardware['compile'] else 'eager'}"
    )
    table = Table()
    for name in ("phase", "ms a step", "share", *(["host's ms"] if clock == "device" else [])):
        table.add_column(name, justify="left" if name == "phase" else "right")
    for phase in intervals[0][clock]:
        seconds = statistics.median(interval[clock][phase] for interval in intervals)
        share = statistics.median(interval[clock][phase] / total for interval, total in zip(intervals, whole))
        cells = [phase, f"{1e3 * seconds / steps:,.2f}", f"{share:.1%}"]
        if clock == "device":
            cells.append(f"{1e3 * statistics.median(i['host'][phase] for i in intervals) / steps:,.2f}")
        table.add_row(*cells)
    table.add_section()
    table.add_row("step", f"{1e3 * step:,.2f}")
    Console(width=None if sys.stdout.isatty() else 140).print(table)
    slowest, fastest = (plan["total_batch_tokens"] * steps / seconds for seconds in (max(whole), min(whole)))
    print(f"{rate:,.0f} tok/s (intervals: {slowest:,.0f} to {fastest:,.0f})")
    flops = rate * facts["flops_per_token"] / devices
    peak = chip.peak_flops(hardware["precision"])
    if peak is None:
        print(f"{flops / 1e12:.3g} TFLOP/s a device; no peak is known of {chip.name}, so there is no MFU")
    else:
        print(f"{flops / 1e12:.3g} TFLOP/s a device, MFU {flops / peak:.1%} (planned with {chip.mfu:.0%})")
    if facts["reserved_bytes"]:
        print(f"peak memory: {facts['peak_bytes'] / 1e9:.2f} GB, {facts['reserved_bytes'] / 1e9:.2f} GB reserved")
    else:
        print(f"peak memory: {facts['peak_bytes'] / 1e9:.2f} GB resident")
    if facts["busy_seconds"]:
        print(f"the GPU is at work in {facts['busy_seconds'] / step:.1%} of a step's time")


def main() -> None:
    options = build_parser().parse_args()
    with scratch() as folder:
        report = folder / "report.json"
        Child(arguments(options, folder, report), environment(folder, options.threads), folder / "log").peak_bytes()
        tell(json.loads(report.read_text(encoding="utf-8")), options.steps)


if __name__ == "__main__":
    main()
