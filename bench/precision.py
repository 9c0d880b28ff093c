"""Training in each precision, tokens per second and peak memory: the model's own cast beside Lightning's autocast.

python bench/precision.py [--depth 12 --vocab-size 32768 --sequence-len 2048 --rows 32] on any device. Forward and
backward of one micro-batch, no optimizer. "bf16-mixed" is the float32 model under the context of Lightning's plugin,
"bfloat16" the model that casts itself, which is what hw.precision=bfloat16 trains.
"""

import argparse
import dataclasses
import time
from collections.abc import Callable

import torch
from lightning.pytorch.plugins import MixedPrecision, Precision
from rich.console import Console
from rich.table import Table
from timing import in_turn

from nanochat_pl.models.contract import build_model
from nanochat_pl.models.depth import NanoChatSpec
from nanochat_pl.models.execution import Execution
from nanochat_pl.stages.precision import set_float32_products


def build_step(name: str, options: argparse.Namespace, device: torch.device) -> Callable[[], None]:
    """What computes the gradients of a micro-batch once."""
    own = {"bf16-mixed": "float32", "float8": "bfloat16"}.get(name, name)
    spec = NanoChatSpec(depth=options.depth, sequence_len=options.sequence_len)
    config = dataclasses.replace(spec.config(options.vocab_size), compute_dtype=own)
    model = build_model(config, device, 0, Execution(compile=options.compile, float8=name == "float8"))
    ids = torch.randint(options.vocab_size, (options.rows, options.sequence_len + 1), device=device)
    plugin = MixedPrecision("bf16-mixed", device.type) if name == "bf16-mixed" else Precision()

    def step() -> None:
        with plugin.forward_context():
            loss = model(ids[:, :-1], ids[:, 1:])
        (loss / ids.numel()).backward()
        model.zero_grad()

    return step


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("precisions", nargs="*", default=["float32", "bf16-mixed", "bfloat16", "float16"])
    parser.add_argument("--depth", type=int, default=12)
    parser.add_argument("--vocab-size", type=int, default=32768)
    parser.add_argument("--sequence-len", type=int, default=2048)
    parser.add_argument("--rows", type=int, default=32)
    parser.add_argument("--steps", type=int, default=10, help="of one turn")
    parser.add_argument("--repetitions", type=int, default=5)
    parser.add_argument("--compile", action="store_true")
    options = parser.parse_args()
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    set_float32_products(device.type)
    steps = {name: build_step(name, options, device) for name in options.precisions}
    peaks: dict[str, int] = {}

    def seconds(name: str) -> float:
        if device.type == "cuda":
            torch.cuda.reset_peak_memory_stats()
            torch.cuda.synchronize()
        before = torch.cuda.memory_allocated() if device.type == "cuda" else 0
        began = time.perf_counter()
        for _ in range(options.steps):
            steps[name]()
        if device.type == "cuda":
            torch.cuda.synchronize()
            peaks[name] = torch.cuda.max_memory_allocated() - before
        return time.perf_counter() - began

    for name in steps:  # compiled and warm
        seconds(name)
    medians = in_turn(options.repetitions, {name: lambda name=name: seconds(name) for name in steps})
    table = Table("precision", "tok/s", "peak GB above the weights")
    tokens = options.steps * options.rows * options.sequence_len
    for name, median in medians.items():
        table.add_row(name, f"{tokens / median:,.0f}", f"{peaks[name] / 1e9:.2f}" if name in peaks else "")
    Console().print(table)


if __name__ == "__main__":
    main()
