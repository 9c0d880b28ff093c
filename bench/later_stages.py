"""Mid, SFT and RL: python bench/later_stages.py PATH_TO_NANOCHAT RUNS, where RUNS/tiny has stages base and sft.

Rollouts beside nanochat's Engine with the same weights, on word problems; the share of an RL step that the model takes;
how long mid and SFT wait for their batches.
"""

import statistics
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import torch
from beside import Bench, build_parser, run
from timing import ROOT, Child, Row, Worker

from nanochat_pl.checkpoint.model_folder import load_model_folder
from nanochat_pl.tasks.specs import TaskSpec
from nanochat_pl.tokenizers.chat import render_for_completion

PROMPTS, SAMPLES, NEW_TOKENS = 16, 8, 80
ROLLOUT_GOAL = 4.0
MODEL_GOAL = 0.60
STEPS = {"mid": 60, "sft": 60, "rl": 8}


def later_stages(bench: Bench) -> Iterator[Row]:
    """The rollouts' rates; what else is measured is printed."""
    for stage, steps in STEPS.items():
        total, waiting, model = shares(bench, stage, steps)
        print(
            f"{stage}: {1000 * total / steps:.0f} ms a step, of which {waiting / total:.2%} waits for the batch and "
            f"{model / total:.0%} is in the model's passes" + (f" (goal {MODEL_GOAL:.0%})" if stage == "rl" else ""),
            flush=True,
        )
    yield rollouts(bench)


def shares(bench: Bench, stage: str, steps: int) -> tuple[float, float, float]:
    """Seconds of the steps, of waiting for batches, and in the model."""
    parent = bench.options.runs.resolve() / "tiny" / ("sft" if stage == "rl" else "base")
    arguments = [
        "train.py", f"stage={stage}", f"stage.init_from={parent}", f"horizon.steps={steps + 1}",
        "callbacks.samples=null", "callbacks.evaluate=null", "callbacks.export=null",
        f"trainer.validate_every_n_steps={10 * steps}",
        "+callbacks.shares._target_=hooks.Shares",
    ]  # fmt: skip
    with closing(Worker(arguments, bench.env, bench.log())) as worker:
        return worker.answer()


def rollouts(bench: Bench) -> Row:
    """Answers' tokens a second, in turn."""
    folder = bench.options.runs.resolve() / "tiny/sft/model"
    loaded = load_model_folder(folder)
    weights = bench.folder / "weights.pt"
    torch.save({"config": loaded.model.config.as_dict(), "weights": loaded.model.state_dict()}, weights)
    converting = [str(ROOT / "bench/nanochat_side.py"), "tokenizer", str(folder / "tokenizer")]
    Child(converting, bench.nanochat_env, bench.log()).peak_bytes()
    task = TaskSpec("tiny_math").build()
    prompts = [render_for_completion(loaded.tokenizer, task.prompt(i)) for i in range(PROMPTS)]
    rates: dict[str, list[float]] = {"theirs": [], "ours": []}
    arguments = [str(weights), str(folder / "tokenizer")]
    script = str(ROOT / "bench/rollouts_side.py")
    with (
        closing(Worker([script, "theirs", *arguments], bench.nanochat_env, bench.log())) as theirs,
        closing(Worker([script, "ours", *arguments], bench.env, bench.log())) as ours,
    ):
        for worker in (theirs, ours):
            worker.answer()
            worker.ask((prompts[:2], SAMPLES, NEW_TOKENS))
        for _ in range(bench.options.repetitions):
            for side, worker in (("theirs", theirs), ("ours", ours)):
                seconds, tokens = worker.ask((prompts, SAMPLES, NEW_TOKENS))
                rates[side].append(tokens / seconds)
    medians = {side: statistics.median(values) for side, values in rates.items()}
    work = f"rollouts {PROMPTS} x {SAMPLES}"
    return Row(work, "tok/s", medians["theirs"], medians["ours"], goal=ROLLOUT_GOAL)


if __name__ == "__main__":
    parser = build_parser(__doc__)
    parser.add_argument("runs", type=Path, help="the folder of the run tiny, trained up to sft")
    run(parser, later_stages)
