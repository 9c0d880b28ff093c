"""What the comparisons with nanochat share: text, tokenizer and environments of both projects, workers in turn."""

import argparse
import importlib.util
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from corpus import build_corpus, build_tokenizer, training_overrides
from timing import ROOT, Child, Row, Worker, environment, in_turn, print_table, scratch

from nanochat_pl.core.run_folder import RunFolder

VOCAB_SIZE = 8192
GPU_VOCAB_SIZE = 32768
FLASH3_MODULES = ("kernels", "flash_attn_interface")
"""Through which nanochat and torch come by FlashAttention 3."""


@dataclass(frozen=True)
class Shape:
    """A training setting and its goals.

    Attributes:
        rows: of a micro-batch.
        accumulation: micro-batches of a step.
        flash3: FlashAttention 3 for whoever finds it on this machine; else it is hidden from both.
    """

    name: str
    sequence_len: int
    rows: int
    window_pattern: str
    speed_goal: float
    memory_goal: float | None = None
    depth: int = 4
    accumulation: int = 1
    flash3: bool = False

    @property
    def tokens(self) -> int:
        """Of a step."""
        return self.accumulation * self.rows * self.sequence_len


class Bench:
    """The settings, the folder with text and tokenizer, and both projects' environments."""

    def __init__(self, options: argparse.Namespace, folder: Path):
        self.options, self.folder = options, folder
        self.nanochat = options.nanochat.resolve()
        self.on_gpu = options.device == "cuda"
        stubs = folder / "stubs"
        stubs.mkdir()
        if importlib.util.find_spec("wandb") is None:  # its script imports it, though it isn't used here
            (stubs / "wandb.py").touch()
        self.env = environment(folder, options.threads)
        self.nanochat_env = environment(
            folder,
            options.threads,
            self.nanochat,
            stubs,
            NANOCHAT_BASE_DIR=str(folder / "nanochat"),
            NANOCHAT_DTYPE="bfloat16" if self.on_gpu else "float32",
            PYTHONDONTWRITEBYTECODE="1",
        )
        if self.on_gpu:
            self.nanochat_env["PYTORCH_ALLOC_CONF"] = "expandable_segments:True"  # as its script sets it
        self.hiding_flash3 = folder / "hiding_flash3"
        self.hiding_flash3.mkdir()
        for name in FLASH3_MODULES:
            (self.hiding_flash3 / f"{name}.py").write_text("raise ImportError('hidden')\n")
        self.train, self.val = build_corpus(folder, options.documents, options.document_chars)
        if self.on_gpu:
            self.overrides = training_overrides(self.train, self.val, GPU_VOCAB_SIZE, hw="auto")
            self.overrides += ["hw.accelerator=cuda", "hw.precision=bfloat16", "hw.compile=true", "recipe=d12"]
        else:
            self.overrides = training_overrides(self.train, self.val, VOCAB_SIZE)
        self.tokenizer = folder / "tokenizer"
        os.environ.update({key: self.env[key] for key in ("NANOCHAT_PL_RUNS", "NANOCHAT_PL_CACHE")})
        build_tokenizer(self.overrides, self.tokenizer)
        converting = Child(
            [str(ROOT / "bench/nanochat_side.py"), "tokenizer", str(self.tokenizer)], self.nanochat_env, self.log()
        )
        converting.peak_bytes()
        self.runs = 0

    def log(self) -> Path:
        """A new file for a child's output."""
        return self.folder / f"{len(list(self.folder.glob('*.log')))}.log"

    def our_training(self, shape: Shape, steps: int, *more: str) -> list[str]:
        """Arguments of the interpreter for our train.py, in a new run folder."""
        self.runs += 1
        return [
            "train.py",
            *self.overrides,
            f"run.name=bench{self.runs}",
            f"model.depth={shape.depth}",
            "model.n_embd=null",
            "model.head_dim=128",
            f"model.sequence_len={shape.sequence_len}",
            f"model.window_pattern={shape.window_pattern}",
            f"horizon.steps={steps}",
            f"horizon.total_batch_tokens={shape.tokens}",
            *([f"hw.tokens_per_device={shape.rows * shape.sequence_len}"] if self.on_gpu else []),
            f"trainer.validate_every_n_steps={steps}",
            "callbacks.checkpoints.every_n_minutes=null",
            *more,
        ]

    def their_training(self, shape: Shape, steps: int) -> list[str]:
        """The same for nanochat's script, its evaluations switched off."""
        values = {
            "depth": shape.depth,
            "max-seq-len": shape.sequence_len,
            "window-pattern": shape.window_pattern,
            "device-batch-size": shape.rows,
            "total-batch-size": shape.tokens,
            "num-iterations": steps,
            "device-type": self.options.device,
        }
        off = [f"--{name}=-1" for name in ("eval-every", "core-metric-every", "sample-every", "save-every")]
        return ["-m", "scripts.base_train", *(f"--{name}={value}" for name, value in values.items()), *off]

    def worker(self, side: str, *arguments: object, shape: Shape | None = None) -> Worker:
        """A ready worker of bench/`side`.py, for a training of this shape."""
        env = self.env if side == "our_side" else self.nanochat_env
        env = self.for_shape(env, shape) if shape else env
        worker = Worker([str(ROOT / f"bench/{side}.py"), *map(str, arguments)], env, self.log())
        worker.answer()
        return worker

    def for_shape(self, env: dict[str, str], shape: Shape) -> dict[str, str]:
        """The environment, on a GPU with FlashAttention 3 hidden unless it is the shape's."""
        if shape.flash3 or not self.on_gpu:
            return env
        return env | {"PYTHONPATH": os.pathsep.join((str(self.hiding_flash3), env["PYTHONPATH"]))}

    def nanochat_has_flash3(self) -> bool:
        """Whether nanochat finds FlashAttention 3 on this machine (it may download it)."""
        asking = ["-c", "from nanochat.flash_attention import USE_FA3; print('USE_FA3', USE_FA3)"]
        asked = Child(asking, self.nanochat_env, self.log())
        asked.peak_bytes()
        return "USE_FA3 True" in asked.log.read_text()

    def our_run(self) -> RunFolder:
        """The folder of our latest training."""
        return RunFolder(self.folder / "runs" / f"bench{self.runs}" / "base")

    def compare(self, theirs: Worker, ours: Worker, amount: int) -> dict[str, float]:
        """Median seconds of both sides for the same amount of work, in turn."""
        measures = {"theirs": lambda: theirs.ask(amount), "ours": lambda: ours.ask(amount)}
        return in_turn(self.options.repetitions, measures)

    def pace(self, shape: Shape, **values: str) -> Worker:
        """Our train.py, stopped after its first step; `values` are more of its environment."""
        arguments = self.our_training(shape, 1_000_000, "+callbacks.pace._target_=hooks.Pace")
        return Worker(arguments, self.for_shape(self.env, shape) | values, self.log())


def build_parser(description: str | None, repetitions: int = 5) -> argparse.ArgumentParser:
    """The options of every comparison."""
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("nanochat", type=Path, help="a checkout of karpathy/nanochat")
    parser.add_argument("--repetitions", type=int, default=repetitions)
    parser.add_argument("--threads", type=int, help="torch threads; default: torch's choice")
    parser.add_argument("--documents", type=int, default=6000, help="of the training text")
    parser.add_argument("--document-chars", type=int, default=2500, help="mean length of a document")
    parser.set_defaults(device="cpu")
    return parser


def run(parser: argparse.ArgumentParser, measure: Callable[[Bench], Iterator[Row]]) -> None:
    """Print the rows as they come, and the table."""
    options = parser.parse_args()
    if not (options.nanochat / "nanochat" / "gpt.py").exists():
        parser.error(f"{options.nanochat} is no checkout of nanochat: it has no nanochat/gpt.py")
    rows: list[Row] = []
    with scratch() as folder:
        for row in measure(Bench(options, folder)):
            print("  ".join(row.cells()), flush=True)
            rows.append(row)
    print_table("nanochat-pl against nanochat", "nanochat", rows)
