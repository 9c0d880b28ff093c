"""nanochat's part of the comparison: a worker that runs its code, imported from its checkout, when asked.

`python bench/nanochat_side.py tokenizer FOLDER` turns our tokenizer into the files that nanochat reads.
"""

import base64
import gc
import math
import os
import pickle
import sys
import time
from pathlib import Path
from typing import Any

import torch
from timing import serve


def convert_tokenizer(folder: Path) -> None:
    """Write tokenizer.pkl and token_bytes.pt under NANOCHAT_BASE_DIR."""
    import tiktoken
    from nanochat.tokenizer import SPECIAL_TOKENS, SPLIT_PATTERN

    lines = (line.split() for line in (folder / "merges.tiktoken").read_text().splitlines())
    ranks = {base64.b64decode(token): int(rank) for token, rank in lines}
    special = {name: len(ranks) + i for i, name in enumerate(SPECIAL_TOKENS)}
    encoding = tiktoken.Encoding("rustbpe", pat_str=SPLIT_PATTERN, mergeable_ranks=ranks, special_tokens=special)
    target = Path(os.environ["NANOCHAT_BASE_DIR"]) / "tokenizer"
    target.mkdir(parents=True, exist_ok=True)
    (target / "tokenizer.pkl").write_bytes(pickle.dumps(encoding))
    lengths = [len(token) for token in ranks] + [0] * len(special)
    torch.save(torch.tensor(lengths, dtype=torch.int32), target / "token_bytes.pt")


def build_model(depth: int, sequence_len: int, window_pattern: str, vocab_size: int, device: Any = "cpu") -> Any:
    from nanochat.gpt import GPT, GPTConfig

    width = math.ceil(depth * 64 / 128) * 128
    config = GPTConfig(
        sequence_len=sequence_len,
        vocab_size=vocab_size,
        n_layer=depth,
        n_head=width // 128,
        n_kv_head=width // 128,
        n_embd=width,
        window_pattern=window_pattern,
    )
    with torch.device("meta"):
        model = GPT(config)
    model.to_empty(device=device)
    model.init_weights()
    return model


class Training:
    """The loop of its scripts/base_train.py, without what happens on a cadence.

    On a GPU, which both sides share, each turn ends with giving back the memory that only a step needs, and begins
    with a step that takes it and is not timed.
    """

    def __init__(
        self,
        depth: int,
        rows: int,
        sequence_len: int,
        window_pattern: str,
        accumulation: int = 1,
        device: str = "cpu",
    ):
        from nanochat.dataloader import tokenizing_distributed_data_loader_with_state_bos_bestfit as build_loader
        from nanochat.tokenizer import get_tokenizer

        self.accumulation, self.on_gpu = accumulation, device == "cuda"
        if self.on_gpu:
            torch.set_float32_matmul_precision("high")
        tokenizer = get_tokenizer()
        model = build_model(depth, sequence_len, window_pattern, tokenizer.get_vocab_size(), device)
        self.optimizer = model.setup_optimizer(weight_decay=0.28)
        self.model = torch.compile(model, dynamic=False)
        self.loader = build_loader(tokenizer, rows, sequence_len, split="train", device=torch.device(device))
        self.batch = next(self.loader)

    def __call__(self, steps: int) -> float:
        if self.on_gpu:
            self._step()
            gc.collect()
            gc.freeze()
            gc.disable()
        began = time.perf_counter()
        for _ in range(steps):
            self._step()
        seconds = time.perf_counter() - began
        if self.on_gpu:
            torch.cuda.empty_cache()
        return seconds

    def _step(self) -> None:
        for _ in range(self.accumulation):
            inputs, targets, _ = self.batch
            loss = self.model(inputs, targets)
            (loss / self.accumulation).backward()
            self.batch = next(self.loader)
        for group in self.optimizer.param_groups:
            group["lr"] = group["initial_lr"] * 0.5
        self.optimizer.step()
        self.model.zero_grad(set_to_none=True)
        loss.item()
        if self.on_gpu:
            torch.cuda.synchronize()


class Loading:
    def __init__(self, rows: int, sequence_len: int):
        self.rows, self.sequence_len = rows, sequence_len

    def __call__(self, batches: int) -> float:
        """Seconds from a standing start, so that nobody profits from what was prepared between two turns."""
        from nanochat.dataloader import tokenizing_distributed_data_loader_bos_bestfit as build_loader
        from nanochat.tokenizer import get_tokenizer

        tokenizer = get_tokenizer()
        began = time.perf_counter()
        loader = build_loader(tokenizer, self.rows, self.sequence_len, split="train", tokenizer_threads=2, device="cpu")
        for _ in range(batches):
            next(loader)
        return time.perf_counter() - began


class Decoding:
    """Its Engine continues one prompt, `rows` times at once."""

    def __init__(self, depth: int, rows: int, prompt_tokens: int, vocab_size: int):
        from nanochat.engine import Engine
        from nanochat.tokenizer import get_tokenizer

        model = build_model(depth, 2048, "L", vocab_size).eval()
        self.engine = Engine(model, get_tokenizer())
        self.rows = rows
        self.prompt = torch.randint(256, 4096, (prompt_tokens,), generator=torch.Generator().manual_seed(0)).tolist()

    def __call__(self, new_tokens: int) -> tuple[float, float]:
        """Seconds until all rows have their first token, and of one more token a row."""
        began = time.perf_counter()
        columns = self.engine.generate(self.prompt, num_samples=self.rows, max_tokens=new_tokens + 1)
        next(columns)
        prefilled = time.perf_counter()
        more = sum(1 for _ in columns)
        return prefilled - began, (time.perf_counter() - prefilled) / more


if __name__ == "__main__":
    if sys.argv[1] == "tokenizer":
        convert_tokenizer(Path(sys.argv[2]))
    else:
        kind = {"train": Training, "loader": Loading, "decode": Decoding}[sys.argv[1]]
        arguments = [int(value) if value.isdigit() else value for value in sys.argv[2:]]
        serve(kind(*arguments))
