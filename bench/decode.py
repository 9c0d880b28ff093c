"""Decoding beside nanochat's Engine, and beside what the memory allows: python bench/decode.py PATH_TO_NANOCHAT

Both continue prompts of 80 tokens. nanochat's rows are copies of one prompt, which it reads once; ours are different
prompts, each read by itself, so the time to the first token is told apart from the tokens that follow.
"""

import statistics
import time
from collections.abc import Iterator
from contextlib import closing

from beside import VOCAB_SIZE, Bench, build_parser, run
from timing import Row

GOALS = {(4, 1): 2.5, (12, 1): 1.3, (4, 32): 1.5, (12, 32): 1.5}
PROMPT_TOKENS = 80
NEW_TOKENS = 48
BOUND_DEPTH = 12
BOUND_GOAL = 0.45
SECONDS_OF_READING = 3.0


def decode(bench: Bench) -> Iterator[Row]:
    """First tokens and the rate of those that follow."""
    for (depth, rows), goal in GOALS.items():
        setting = ("decode", depth, rows, PROMPT_TOKENS, VOCAB_SIZE)
        first: dict[str, list[float]] = {"theirs": [], "ours": []}
        each: dict[str, list[float]] = {"theirs": [], "ours": []}
        with (
            closing(bench.worker("nanochat_side", *setting)) as theirs,
            closing(bench.worker("our_side", *setting)) as ours,
        ):
            sides = {"theirs": theirs, "ours": ours}
            for worker in sides.values():
                worker.ask(8)
            for _ in range(bench.options.repetitions):
                for side, worker in sides.items():
                    seconds = worker.ask(NEW_TOKENS)
                    first[side].append(seconds[0])
                    each[side].append(seconds[1])
        rates = {side: rows / statistics.median(values) for side, values in each.items()}
        work = f"d{depth}, {rows} rows"
        yield Row(f"decode {work}", "tok/s", rates["theirs"], rates["ours"], goal=goal)
        waits = {side: statistics.median(values) for side, values in first.items()}
        yield Row(f"first tokens {work}", "s", waits["theirs"], waits["ours"], more_is_better=False)
        if (depth, rows) == (BOUND_DEPTH, 1):
            bound(rates["ours"])


def bound(tokens_per_second: float) -> None:
    """Print how near this rate is to reading every weight once a token."""
    import torch

    from nanochat_pl.models.contract import build_model
    from nanochat_pl.models.depth import NanoChatSpec

    spec = NanoChatSpec(depth=BOUND_DEPTH, sequence_len=2048, window_pattern="L")
    model = build_model(spec.config(VOCAB_SIZE), "meta", None)
    tables = ("embedding", "value_embeddings")  # of which a token reads one row
    read = sum(p.numel() for name, p in model.named_parameters() if not name.startswith(tables)) * 4
    memory = torch.ones(1 << 27)
    memory.sum()
    rates, began = [], time.perf_counter()
    while time.perf_counter() - began < SECONDS_OF_READING:
        turn = time.perf_counter()
        memory.sum()
        rates.append(memory.nbytes / (time.perf_counter() - turn))
    limit = statistics.median(rates) / read
    print(
        f"d{BOUND_DEPTH}, 1 row: {read / 1e6:.0f} MB of weights a token, memory read at "
        f"{statistics.median(rates) / 1e9:.1f} GB/s: at most {limit:.1f} tok/s; "
        f"ours is {tokens_per_second / limit:.0%} of that (goal {BOUND_GOAL:.0%})",
        flush=True,
    )


if __name__ == "__main__":
    run(build_parser(__doc__), decode)
