"""Our part of the comparison where train.py is not what runs: a worker that loads batches or decodes when asked."""

import sys
import time
from pathlib import Path

import torch
from timing import serve

from nanochat_pl.data.specs import TextDataSpec
from nanochat_pl.inference.engine import Engine
from nanochat_pl.inference.sampling import Sampling
from nanochat_pl.models.contract import build_model
from nanochat_pl.models.depth import NanoChatSpec
from nanochat_pl.tokenizers.load import load_tokenizer


class Loading:
    def __init__(self, tokenizer: str, train: str, val: str, rows: int, sequence_len: int):
        self.data = TextDataSpec(files=train, val_files=val, val_tokens=4096).build(
            load_tokenizer(Path(tokenizer)),
            sequence_len=sequence_len,
            rows_per_step=rows,
            micro_batch_rows=rows,
            seed=0,
            tokenizer_threads=2,
        )

    def __call__(self, batches: int) -> float:
        """Seconds from a standing start, so that nobody profits from what was prepared between two turns."""
        began = time.perf_counter()
        loader = iter(self.data.train_dataloader())
        for _ in range(batches):
            next(loader)
        return time.perf_counter() - began


class Decoding:
    """Our engine continues `rows` different prompts at once."""

    def __init__(self, depth: int, rows: int, prompt_tokens: int, vocab_size: int):
        spec = NanoChatSpec(depth=depth, sequence_len=2048, window_pattern="L")
        model = build_model(spec.config(vocab_size), "cpu", 0).eval()
        self.engine = Engine(model, max_rows=rows, reuse=False)
        generator = torch.Generator().manual_seed(0)
        self.prompts = torch.randint(256, 4096, (rows, prompt_tokens), generator=generator).tolist()

    def __call__(self, new_tokens: int) -> tuple[float, float]:
        """Seconds until all rows have their first token, and of one more token a row."""
        began = time.perf_counter()
        sampling = Sampling(new_tokens + 2 * len(self.prompts), temperature=1.0)
        requests = [self.engine.submit(prompt, sampling)[0] for prompt in self.prompts]
        first: set[int] = set()
        while len(first) < len(requests):
            first |= {token.request for token in self.engine.step()}
        prefilled = time.perf_counter()
        for _ in range(new_tokens):
            self.engine.step()
        ended = time.perf_counter()
        for request in requests:
            self.engine.cancel(request)
        return prefilled - began, (ended - prefilled) / new_tokens


if __name__ == "__main__":
    kind = {"loader": Loading, "decode": Decoding}[sys.argv[1]]
    serve(kind(*(int(value) if value.isdigit() else value for value in sys.argv[2:])))
