"""Dense training, dense with recomputed activations, and MoleGrad of several ranks, side by side.

python bench/molegrad.py memory|speed [--depth 6 --sequence-len 2048]: what the MLPs keep for the backward pass (by
saved-tensor hooks), the optimizer's state of their matrices, on a GPU the peak; a whole step of one micro-batch. On a
GPU the default is d20 and a row of 8,192 tokens.

python bench/molegrad.py learning TEXT [--steps 366]: train.py at d4, T 512, on files of real text; loss over the ranks.
"""

import argparse
import json
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from rich.console import Console
from rich.table import Table
from timing import Child, environment, in_turn, scratch
from torch import Tensor

from nanochat_pl.models.contract import build_model
from nanochat_pl.models.depth import NanoChatSpec
from nanochat_pl.models.execution import Execution
from nanochat_pl.nn.layers import MLP
from nanochat_pl.nn.molegrad import DENSE, Streaming
from nanochat_pl.optim.muon import MuonAdamWSpec

RANKS = (8, 32, 128)
"""Of MoleGrad."""


@dataclass(frozen=True)
class Variant:
    """One way to train."""

    name: str
    execution: Execution
    streaming: Streaming = DENSE


def variants() -> list[Variant]:
    return [
        Variant("dense", Execution()),
        Variant("dense, recomputed", Execution(recompute=True)),
        *(
            Variant(f"MoleGrad k={rank}", Execution(streaming=streaming), streaming)
            for rank in RANKS
            for streaming in [Streaming(enabled=True, rank_k=rank)]
        ),
    ]


class Training:
    """A model and its optimizer, which take steps on random tokens."""

    def __init__(self, variant: Variant, config: Any, rows: int, device: str):
        self.model: Any = build_model(config, device, 0, variant.execution)
        self.optimizer = MuonAdamWSpec().build(
            self.model.named_parameters(),
            self.model.param_roles(),
            width=config.n_embd,
            batch_lr_scale=0.1,
            low_rank=self.model.low_rank,
            low_rank_values=variant.streaming.optimizer_values(),
        )
        self.ids = torch.randint(config.vocab_size, (rows, config.sequence_len + 1), device=device)

    def loss(self) -> Tensor:
        return self.model(self.ids[:, :-1], self.ids[:, 1:]) / self.ids.numel()

    def step(self) -> None:
        self.loss().backward()
        self.optimizer.step()
        self.optimizer.zero_grad()

    def state_bytes(self) -> int:
        """Of the optimizer for the matrices of the MLPs, their subspaces included."""
        named = {name: parameter for name, parameter in self.model.named_parameters() if ".mlp." in name}
        held = 0
        for name, parameter in named.items():
            low_rank = self.model.low_rank.get(name)
            state = self.optimizer.state[low_rank.left if low_rank else parameter]
            held += sum(value.nbytes for value in state.values())
            held += low_rank.left.nbytes + low_rank.right.nbytes if low_rank else 0
        return held


@contextmanager
def kept_by_mlps(model: Any) -> Iterator[dict[int, int]]:
    """storage -> bytes that the MLPs save for the backward pass; weights and subspaces themselves are left out."""
    kept: dict[int, int] = {}
    parameters = [*model.parameters(), *(sketch for low_rank in model.low_rank.values() for sketch in low_rank)]
    own = {parameter.untyped_storage()._cdata for parameter in parameters}
    inside: list[Any] = []

    def keep(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if inside and storage._cdata not in own:
            kept[storage._cdata] = storage.nbytes()
        return tensor

    handles = []
    for module in model.modules():
        if isinstance(module, MLP):
            handles.append(module.register_forward_pre_hook(lambda *_: inside.append(None)))
            handles.append(module.register_forward_hook(lambda *_: inside.clear()))
    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        yield kept
    for handle in handles:
        handle.remove()


def memory(options: argparse.Namespace, device: str) -> Table:
    """A line a variant."""
    table = Table("", "kept by the MLPs", "", "optimizer, MLPs", "", "peak", title=title(options, device))
    first: tuple[int, int] | None = None
    for variant in variants():
        if device == "cuda":
            torch.cuda.empty_cache()
            torch.cuda.reset_peak_memory_stats()
        training = Training(variant, config_of(options, device), options.rows, device)
        with kept_by_mlps(training.model) as kept:
            loss = training.loss()  # holds what is kept, so that no storage stands for two
            held = sum(kept.values())
        del loss
        training.step()
        state = training.state_bytes()
        first = first or (held, state)
        peak = f"{torch.cuda.max_memory_allocated() / 1e9:.2f} GB" if device == "cuda" else ""
        cells = [
            f"{held / 1e6:,.1f} MB",
            f"{held / first[0]:.3f}x",
            f"{state / 1e6:,.2f} MB",
            f"{state / first[1]:.3f}x",
        ]
        table.add_row(variant.name, *cells, peak)
    return table


def speed(options: argparse.Namespace, device: str) -> Table:
    """Medians of whole steps that take turns."""
    trainings = {v.name: Training(v, config_of(options, device), options.rows, device) for v in variants()}

    def seconds(training: Training) -> float:
        began = time.perf_counter()
        for _ in range(options.steps):
            training.step()
        if device == "cuda":
            torch.cuda.synchronize()
        return (time.perf_counter() - began) / options.steps

    for training in trainings.values():
        seconds(training)
    medians = in_turn(
        options.repetitions, {name: lambda training=training: seconds(training) for name, training in trainings.items()}
    )
    table = Table("", "ms a step", "tok/s", "", title=title(options, device))
    for name, median in medians.items():
        tokens = options.rows * options.sequence_len / median
        table.add_row(name, f"{median * 1e3:,.1f}", f"{tokens:,.0f}", f"{median / medians['dense']:.3f}x")
    return table


def learning(options: argparse.Namespace) -> Table:
    """Validation after training on the same text, a line a variant."""
    table = Table("", "val loss", "", "val bpb", "s", title=f"d4, T 512, {options.steps * 4096 / 1e6:.2f}M tokens")
    shape = ["model.depth=4", "model.n_embd=256", "model.head_dim=64", "model.sequence_len=512", "hw=cpu"]
    batch = ["horizon.total_batch_tokens=4096", f"horizon.steps={options.steps}"]
    text = [
        "data=text",
        f"data.files={options.text}",
        "data.val_fraction=0.05",
        "tokenizer=bpe",
        "tokenizer.vocab_size=4096",
    ]
    quiet = ["callbacks.samples=null", "callbacks.checkpoints=null", "callbacks.tell=null", "callbacks.tracker=null"]
    first = None
    with scratch() as folder:
        for index, variant in enumerate(v for v in variants() if not v.execution.recompute):
            streaming = [f"streaming.{name}={value}" for name, value in vars(variant.streaming).items()]
            arguments = [*shape, *batch, *text, *quiet, *streaming, f"run.name=v{index}"]
            log = folder / f"{index}.txt"
            child = Child(["train.py", *arguments], environment(folder, options.threads), log)
            child.peak_bytes()
            run = folder / "runs" / f"v{index}" / "base"
            summary = json.loads((run / "summary.json").read_text())
            first = first or summary["val_loss"]
            ratio = f"{summary['val_loss'] / first:.3f}x"
            figures = (
                f"{summary['val_loss']:.4f}",
                ratio,
                f"{summary['val_bpb']:.4f}",
                f"{summary['wall_seconds']:.0f}",
            )
            table.add_row(variant.name, *figures)
    return table


def config_of(options: argparse.Namespace, device: str) -> Any:
    spec = NanoChatSpec(depth=options.depth, sequence_len=options.sequence_len)
    return spec.config(options.vocab_size, "bfloat16" if device == "cuda" else "float32")


def title(options: argparse.Namespace, device: str) -> str:
    chip = torch.cuda.get_device_name() if device == "cuda" else "CPU"
    return f"d{options.depth}, {options.rows} x {options.sequence_len:,} tokens, {chip}"


def main() -> None:
    device = "cuda" if torch.cuda.is_available() else "cpu"
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=["memory", "speed", "learning"])
    parser.add_argument("text", nargs="?", help="data.files of train.py: [a.txt] or [b.parquet]")
    parser.add_argument("--depth", type=int, default=20 if device == "cuda" else 6)
    parser.add_argument("--sequence-len", type=int, default=8192 if device == "cuda" else 2048)
    parser.add_argument("--rows", type=int, default=1)
    parser.add_argument("--vocab-size", type=int, default=32768 if device == "cuda" else 8192)
    parser.add_argument("--steps", type=int, help="of one turn; of a training")
    parser.add_argument("--repetitions", type=int, default=5)
    parser.add_argument("--threads", type=int)
    options = parser.parse_args()
    options.steps = options.steps or (366 if options.what == "learning" else 2)
    if options.what == "learning":
        if not options.text:
            parser.error("learning needs files of text")
        table = learning(options)
    else:
        table = {"memory": memory, "speed": speed}[options.what](options, device)
    Console(width=120).print(table)


if __name__ == "__main__":
    main()
