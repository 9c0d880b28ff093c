"""Either side of bench/later_stages.py: a worker that answers questions several times when asked.

python bench/rollouts_side.py ours|theirs WEIGHTS TOKENIZER
"""

import sys
import time
from pathlib import Path

import torch
from core_side import their_model
from timing import serve

from nanochat_pl.inference.engine import Engine
from nanochat_pl.inference.sampling import Sampling
from nanochat_pl.models.contract import build_config, build_model
from nanochat_pl.tokenizers.load import load_tokenizer
from nanochat_pl.tools.tool_calls import ToolCalls

Work = tuple[list[list[int]], int, int]
"""Prompts, answers to each, tokens of an answer at most."""
TOP_K = 50


class Ours:
    """All answers under way at once."""

    def __init__(self, weights: Path, tokenizer: Path):
        stored = torch.load(weights)
        self.model = build_model(build_config("nanochat", stored["config"]), "cpu", None).eval()
        self.model.load_state_dict(stored["weights"])
        self.tokenizer = load_tokenizer(tokenizer)
        self.end = self.tokenizer.special_tokens["<|assistant_end|>"]

    def __call__(self, work: Work) -> tuple[float, int]:
        """Seconds, and tokens of all answers."""
        prompts, samples, new_tokens = work
        engine, tokens = Engine(self.model, max_rows=len(prompts) * samples, reuse=False), 0
        began = time.perf_counter()
        for seed, prompt in enumerate(prompts):
            sampling = Sampling(new_tokens, 1.0, TOP_K, seed=seed, stop_ids=(self.end,))
            engine.submit(prompt, sampling, [ToolCalls(self.tokenizer) for _ in range(samples)], num_samples=samples)
        for token in engine.run():
            tokens += token.id is not None
        return time.perf_counter() - began, tokens


class Theirs:
    """Its Engine, as its scripts/chat_rl.py uses it: the answers to one question at a time."""

    def __init__(self, weights: Path, tokenizer: Path):
        from nanochat.engine import Engine
        from nanochat.tokenizer import get_tokenizer

        self.engine = Engine(their_model(torch.load(weights)), get_tokenizer())

    def __call__(self, work: Work) -> tuple[float, int]:
        """Seconds, and tokens of all answers."""
        prompts, samples, new_tokens = work
        tokens, began = 0, time.perf_counter()
        for seed, prompt in enumerate(prompts):
            answers, _ = self.engine.generate_batch(
                prompt, num_samples=samples, max_tokens=new_tokens, temperature=1.0, top_k=TOP_K, seed=seed
            )
            tokens += sum(map(len, answers)) - samples * len(prompt)
        return time.perf_counter() - began, tokens


if __name__ == "__main__":
    side = {"ours": Ours, "theirs": Theirs}[sys.argv[1]]
    serve(side(*map(Path, sys.argv[2:])))
