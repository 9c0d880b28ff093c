"""The attention backends of this machine side by side, forward and backward: python bench/attention.py [--tokens 2048]

Each runs in a process of its own, by turns with the others. FLOPs are those of the pairs of tokens that see each other:
two products forward and five backward. Memory, on GPUs, is the most that one layer took beyond its inputs, with masks;
making these, once for all layers, is not timed.
"""

import argparse
import sys
import time
from functools import partial
from typing import Any, NamedTuple

import torch
from timing import Worker, environment, in_turn, scratch, serve

from nanochat_pl.nn.attention.backend import first_seen
from nanochat_pl.nn.attention.choose import BACKENDS, choose

DOCUMENT_TOKENS = 500


class Shape(NamedTuple):
    """Of one layer; see `build_parser`."""

    device: str
    dtype: str
    rows: int
    heads: int
    kv_heads: int
    tokens: int
    head_dim: int


class Work(NamedTuple):
    """What is seen: `window` tokens before each, and in documents of DOCUMENT_TOKENS each."""

    window: int
    in_documents: bool

    def documents(self, shape: Shape) -> torch.Tensor | None:
        """(rows, tokens); a row begins within a document."""
        if not self.in_documents:
            return None
        rows, places = torch.arange(shape.rows)[:, None], torch.arange(shape.tokens)
        return ((places + rows * DOCUMENT_TOKENS // 3) // DOCUMENT_TOKENS).to(shape.device)

    def flops(self, shape: Shape) -> int:
        documents = self.documents(shape)
        first = first_seen(shape.tokens, self.window, documents, torch.device(shape.device))
        pairs = int((torch.arange(shape.tokens, device=first.device) + 1 - first).sum()) * shape.rows // len(first)
        return 14 * shape.head_dim * shape.heads * pairs


class Layer:
    """In a process of its own: one layer's attention; answers (seconds, peak bytes or 0) of one pass there and back."""

    def __init__(self, name: Any, shape: Shape):
        self.shape, dtype = shape, getattr(torch, shape.dtype)
        self.backend = choose(name, shape.device, dtype, shape.head_dim)
        generator = torch.Generator().manual_seed(0)
        B, T, D = shape.rows, shape.tokens, shape.head_dim
        sizes = [(B, T, heads, D) for heads in (shape.heads, shape.kv_heads, shape.kv_heads, shape.heads)]
        made = [torch.randn(size, generator=generator).to(shape.device, dtype).transpose(1, 2) for size in sizes]
        self.inputs, self.dy = [x.requires_grad_() for x in made[:3]], made[3]

    def __call__(self, work: Work) -> tuple[float, int]:
        B, T, documents, on_gpu = self.shape.rows, self.shape.tokens, work.documents(self.shape), self.dy.is_cuda
        held = torch.cuda.memory_allocated() if on_gpu else 0
        seen = self.backend.see(B, T, (work.window,), documents, self.dy.device)[work.window]
        if on_gpu:
            torch.cuda.reset_peak_memory_stats()
        self._wait()
        began = time.perf_counter()
        y = self.backend.attend(*self.inputs, work.window, self.shape.head_dim**-0.5, seen)
        torch.autograd.grad(y, self.inputs, self.dy)
        self._wait()
        return time.perf_counter() - began, torch.cuda.max_memory_allocated() - held if on_gpu else 0

    def _wait(self) -> None:
        if self.dy.is_cuda:
            torch.cuda.synchronize()


def seconds_of(worker: Worker, work: Work) -> float:
    return worker.ask(work)[0]


def build_parser() -> argparse.ArgumentParser:
    cuda = torch.cuda.is_available()
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--device", default="cuda" if cuda else "cpu")
    parser.add_argument(
        "--dtype", default="bfloat16" if cuda else "float32", choices=["float32", "bfloat16", "float16"]
    )
    parser.add_argument("--rows", type=int, default=16 if cuda else 1)
    parser.add_argument("--tokens", type=int, default=2048)
    parser.add_argument("--heads", type=int, default=12 if cuda else 4)
    parser.add_argument("--kv-heads", type=int)
    parser.add_argument("--head-dim", type=int, default=128 if cuda else 64)
    parser.add_argument("--window", type=int, help="of the second and fourth row; default: a quarter of the tokens")
    parser.add_argument("--repetitions", type=int, default=20 if cuda else 5)
    parser.add_argument("--backend", help=argparse.SUPPRESS)  # given to the process of one backend
    return parser


def measure(shape: Shape, works: dict[str, Work], repetitions: int) -> None:
    from rich.console import Console
    from rich.table import Table

    device, dtype = torch.device(shape.device), getattr(torch, shape.dtype)
    reasons = {name: kind().why_not(device, dtype, shape.head_dim) for name, kind in BACKENDS.items()}
    sizes = ", ".join(f"{name} {value}" for name, value in shape._asdict().items() if isinstance(value, int))
    table = Table(title=f"one layer, there and back: {shape.device}, {shape.dtype}, {sizes}")
    for column in ("seen", "backend", "ms", "TFLOP/s", "peak MB"):
        table.add_column(column, justify="left" if column in ("seen", "backend") else "right")
    with scratch() as folder:
        arguments = [f"--{name.replace('_', '-')}={value}" for name, value in shape._asdict().items()]
        workers = {
            name: Worker([__file__, f"--backend={name}", *arguments], environment(folder), folder / f"{name}.log")
            for name, reason in reasons.items()
            if reason is None
        }
        for worker in workers.values():
            worker.answer()
        for seen, work in works.items():
            peaks = {}
            for name, worker in workers.items():
                worker.ask(work)  # compiles, warms up
                peaks[name] = worker.ask(work)[1]
            asks = {name: partial(seconds_of, worker, work) for name, worker in workers.items()}
            for name, seconds in in_turn(repetitions, asks).items():
                speed = work.flops(shape) / seconds / 1e12
                table.add_row(
                    seen,
                    name,
                    f"{1e3 * seconds:.2f}",
                    f"{speed:.3g}",
                    f"{peaks[name] / 1e6:.0f}" if peaks[name] else "",
                )
            table.add_section()
        for worker in workers.values():
            worker.close()
    Console(width=None if sys.stdout.isatty() else 140).print(table)
    for name, reason in reasons.items():
        if reason is not None:
            print(f"{name}: {reason}")


def main() -> None:
    options = build_parser().parse_args()
    heads = options.kv_heads or options.heads
    shape = Shape(options.device, options.dtype, options.rows, options.heads, heads, options.tokens, options.head_dim)
    if options.backend:
        serve(Layer(options.backend, shape))
        return
    full, window = options.tokens - 1, options.window or options.tokens // 4
    works = {
        "all before": Work(full, False),
        f"window of {window}": Work(window, False),
        f"documents of {DOCUMENT_TOKENS}": Work(full, True),
        f"documents, window of {window}": Work(window, True),
    }
    measure(shape, works, options.repetitions)


if __name__ == "__main__":
    main()
