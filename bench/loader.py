"""The pretraining loader by itself: python bench/loader.py [--minutes 1] [key=value ...]

Tokens per second beside tiktoken alone on the same documents, in turn; seconds from the start of a process to its first
batch with everything cached; the memory over the given minutes; and how many GPUs of each kind it could feed. The data
are train.py's (`data=fineweb_edu data.path=...`); by default parquet files of the tiny world and invented words.
"""

import argparse
import itertools
import os
import statistics
import sys
import time
from pathlib import Path
from typing import Any

from corpus import build_corpus, training_overrides
from timing import ROOT, Child, environment, scratch

FIRST_BATCH = "first batch"
GPU_FLOPS = {"RTX 4090": 165e12, "A100": 312e12, "H100": 989e12, "B200": 2250e12}
"""Dense bfloat16 peaks of the makers' data sheets."""
UTILISATION = 0.45
"""Of the peak, a share that training of such models seldom exceeds."""
DEPTHS = (12, 24)


def build(overrides: list[str], rows: int, sequence_len: int) -> tuple[Any, Any, Any]:
    """The data module of train.py for these arguments, its training source and its tokenizer."""
    from nanochat_pl.config.compose import compose
    from nanochat_pl.config.specs import Specs

    specs = Specs.of(compose(overrides))
    sources = specs.data.build_sources()
    tokenizer = specs.build_tokenizer(sources)
    data = specs.data.build(
        tokenizer,
        sequence_len=sequence_len,
        rows_per_step=rows,
        micro_batch_rows=rows,
        seed=0,
        sources=sources,
    )
    return data, sources[0], tokenizer


def resident_bytes() -> int:
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * 4096


def measure(options: argparse.Namespace, overrides: list[str]) -> None:
    """Print the speeds and the memory."""
    from nanochat_pl.data.sources import read_documents

    data, source, tokenizer = build(overrides, options.rows, options.sequence_len)
    documents, characters = [], 0
    for document in read_documents(source):
        documents.append(document)
        characters += len(document)
        if characters > 8_000_000:
            break
    tokens_a_batch = options.rows * options.sequence_len

    def tiktoken_alone() -> float:
        began = time.perf_counter()
        ids = tokenizer._encoding.encode_ordinary_batch(documents, num_threads=options.threads)
        return sum(map(len, ids)) / (time.perf_counter() - began)

    def loader() -> float:
        """From a standing start, so that nobody profits from what was prepared between two turns."""
        began = time.perf_counter()
        batches = iter(data.train_dataloader())
        for _ in itertools.islice(batches, options.batches):
            pass
        return options.batches * tokens_a_batch / (time.perf_counter() - began)

    alone, ours = [], []
    for _ in range(options.repetitions):
        time.sleep(1)  # what the loader had under way has ended
        alone.append(tiktoken_alone())
        ours.append(loader())
    speed = statistics.median(ours)
    share = speed / statistics.median(alone)
    print(f"tiktoken alone: {statistics.median(alone):,.0f} tok/s on {options.threads} threads")
    print(f"loader: {speed:,.0f} tok/s, {share:.0%} of it (goal 80%)", flush=True)
    feed(speed, tokenizer.vocab_size)
    flat(data, options.minutes)


def feed(tokens_per_second: float, vocab_size: int) -> None:
    """Print how many GPUs train no faster than this."""
    from nanochat_pl.models.cost import ModelCost
    from nanochat_pl.models.depth import NanoChatSpec

    for depth in DEPTHS:
        flops = ModelCost(NanoChatSpec(depth=depth, sequence_len=2048).config(vocab_size)).training_flops_per_token
        counts = ", ".join(
            f"{tokens_per_second / (UTILISATION * peak / flops):.0f} {name}" for name, peak in GPU_FLOPS.items()
        )
        print(f"one process feeds at d{depth} ({flops / 1e9:.2f} GFLOPs a token at {UTILISATION:.0%} use): {counts}")


def flat(data: Any, minutes: float) -> None:
    """Print the resident memory while batches are taken as fast as they come."""
    if not minutes:
        return
    began, elapsed, count, seen = time.perf_counter(), 0.0, 0, []
    batches = iter(data.train_dataloader())
    while elapsed <= minutes * 60:
        next(batches)
        count += 1
        elapsed = time.perf_counter() - began
        if elapsed > len(seen) * minutes * 60 / 10:
            seen.append(resident_bytes() / 1e6)
    print(f"resident MB over {minutes:g} minutes, {count:,} batches: {', '.join(f'{size:.0f}' for size in seen)}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("overrides", nargs="*", help="train.py's arguments for the data and the tokenizer")
    parser.add_argument("--rows", type=int, default=32, help="of a batch")
    parser.add_argument("--sequence-len", type=int, default=2048)
    parser.add_argument("--batches", type=int, default=400, help="of one turn")
    parser.add_argument("--repetitions", type=int, default=5)
    parser.add_argument("--threads", type=int, default=2, help="of tiktoken alone; the loader's own are two")
    parser.add_argument("--minutes", type=float, default=1, help="of the look at the memory")
    parser.add_argument("--first-batch", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.first_batch:
        import nanochat_pl.data.module  # noqa: F401  (with torch and Lightning)

        imported = time.perf_counter()
        data, _, _ = build(options.overrides, options.rows, options.sequence_len)
        next(iter(data.train_dataloader()))
        print(f"{FIRST_BATCH} {time.perf_counter() - imported:.1f} s after the imports", flush=True)
        return
    with scratch() as folder:
        env = environment(folder)
        os.environ.update({key: env[key] for key in ("NANOCHAT_PL_RUNS", "NANOCHAT_PL_CACHE")})
        overrides = options.overrides
        if not overrides:
            overrides = training_overrides(*build_corpus(folder, 8000, 3000), 8192)
        measure(options, overrides)
        child = Child([str(ROOT / "bench/loader.py"), "--first-batch", *overrides], env, folder / "first.log")
        seconds = child.seconds_to_line(FIRST_BATCH)
        print(f"all cached: {child.log.read_text().strip()}, {seconds:.1f} s after the start of the process (goal 5 s)")
        child.close()


if __name__ == "__main__":
    sys.exit(main())
