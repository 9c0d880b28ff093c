"""Either side of bench/core.py: a worker that answers a CORE task's examples when asked, with weights from a file.

python bench/core_side.py ours|theirs WEIGHTS TOKENIZER BUNDLE
"""

import re
import sys
import time
from pathlib import Path
from typing import Any

import torch
from timing import serve

from nanochat_pl.evals.core import answer_task
from nanochat_pl.evals.core_bundle import load_core_tasks
from nanochat_pl.models.contract import build_config, build_model
from nanochat_pl.tokenizers.load import load_tokenizer

THEIR_NAMES = (
    (r"^embedding\.", "transformer.wte."),
    (r"^blocks\.", "transformer.h."),
    (r"^head\.", "lm_head."),
    (r"\.query\.", ".c_q."),
    (r"\.key\.", ".c_k."),
    (r"\.value\.", ".c_v."),
    (r"\.proj\.", ".c_proj."),
    (r"\.fc\.", ".c_fc."),
    (r"\.value_gate\.", ".ve_gate."),
    (r"^value_embeddings\.", "value_embeds."),
    (r"^(resid|x0)_scalars$", r"\1_lambdas"),
    (r"^(smear|backout)_scale$", r"\1_lambda"),
)
"""Our names of parameters, by regular expressions, and nanochat's."""

Question = tuple[str, int]
"""A task's label, and how many of its examples."""


def their_name(name: str) -> str:
    for ours, theirs in THEIR_NAMES:
        name = re.sub(ours, theirs, name)
    return name


def their_model(stored: dict[str, Any]) -> Any:
    """nanochat's GPT with our `config` and `weights`, in evaluation mode."""
    from nanochat.gpt import GPT, GPTConfig

    with torch.device("meta"):
        model = GPT(GPTConfig(**{key: stored["config"][key] for key in GPTConfig.__dataclass_fields__}))
    model.to_empty(device="cpu")
    model.init_weights()
    model.load_state_dict({their_name(name): value for name, value in stored["weights"].items()})
    return model.eval()


class Ours:
    def __init__(self, weights: Path, tokenizer: Path, bundle: Path):
        stored = torch.load(weights)
        self.model = build_model(build_config("nanochat", stored["config"]), "cpu", None).eval()
        self.model.load_state_dict(stored["weights"])
        self.tokenizer = load_tokenizer(tokenizer)
        self.tasks = {task.label: task for task in load_core_tasks(bundle)}

    def __call__(self, question: Question) -> tuple[float, float]:
        """Seconds and accuracy."""
        label, count = question
        task = self.tasks[label]
        examples = task.examples(count)
        began = time.perf_counter()
        right = answer_task(self.model, self.tokenizer, task, examples, range(len(examples)))
        return time.perf_counter() - began, sum(right) / len(right)


class Theirs:
    """Its evaluate_task, on its model with our weights."""

    def __init__(self, weights: Path, tokenizer: Path, bundle: Path):
        from nanochat.tokenizer import get_tokenizer

        self.model = their_model(torch.load(weights))
        self.tokenizer = get_tokenizer()
        self.tasks = {task.label: task for task in load_core_tasks(bundle)}

    def __call__(self, question: Question) -> tuple[float, float]:
        """Seconds and accuracy."""
        from nanochat.core_eval import evaluate_task

        label, count = question
        task = self.tasks[label]
        meta = {"task_type": task.kind, "num_fewshot": task.num_fewshot, "continuation_delimiter": task.delimiter}
        examples = task.examples(count)
        began = time.perf_counter()
        accuracy = evaluate_task(self.model, self.tokenizer, examples, "cpu", meta)
        return time.perf_counter() - began, accuracy


if __name__ == "__main__":
    side = {"ours": Ours, "theirs": Theirs}[sys.argv[1]]
    serve(side(*map(Path, sys.argv[2:])))
