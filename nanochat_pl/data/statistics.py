"""How many documents there are and how long they are, in bytes, characters and tokens; as numbers and as a picture."""

from array import array
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

from nanochat_pl.core.paths import replacing
from nanochat_pl.data.sources import DocumentSource
from nanochat_pl.data.stream import COMING_SHARDS
from nanochat_pl.tokenizers.base import Tokenizer

ESTIMATED_BYTES_PER_TOKEN = 4.5
"""English web text by a BPE of 32,768 tokens, where no tokenizer is at hand."""

UNITS = ("bytes", "characters", "tokens")
PERCENTILES = (5, 25, 50, 75, 95, 99)


class DocumentLengths:
    """The length of every document that was added, in three units.

    Args:
        tokenizer: None: tokens are estimated from the bytes.
    """

    def __init__(self, tokenizer: Tokenizer | None = None):
        self._tokenizer = tokenizer
        self._lengths = {unit: array("Q") for unit in UNITS}

    @property
    def tokens_are_estimated(self) -> bool:
        return self._tokenizer is None

    def add(self, documents: list[str]) -> None:
        """Measure these documents, too."""
        sizes = [len(document.encode("utf-8", "surrogatepass")) for document in documents]
        self._lengths["bytes"].extend(sizes)
        self._lengths["characters"].extend(map(len, documents))
        if self._tokenizer is None:
            self._lengths["tokens"].extend(round(size / ESTIMATED_BYTES_PER_TOKEN) for size in sizes)
        else:
            self._lengths["tokens"].extend(map(len, self._tokenizer.encode_batch(documents, num_threads=2)))

    def __len__(self) -> int:
        return len(self._lengths["bytes"])

    def of(self, unit: str) -> np.ndarray:
        """(documents,) lengths in "bytes", "characters" or "tokens" (BOS not counted)."""
        return np.array(self._lengths[unit], dtype=np.int64)


def measure(
    source: DocumentSource,
    tokenizer: Tokenizer | None = None,
    shards: Sequence[int] = (0,),
    limit: int | None = None,
    on_progress: Callable[[float], None] = lambda done: None,
) -> DocumentLengths:
    """The lengths of the first `limit` documents (None: of all) of a source's shards.

    Args:
        on_progress: is told the share that is done, now and then.

    Raises:
        What reading the source raises.
    """
    lengths = DocumentLengths(tokenizer)
    for place, shard in enumerate(shards):
        # The next shards are fetched ahead only where it is certain that they are read.
        source.coming(shards[place : place + COMING_SHARDS] if limit is None else [shard])
        num_chunks = source.num_chunks(shard)
        for chunk in range(num_chunks):
            left = None if limit is None else limit - len(lengths)
            if left == 0:
                return lengths
            lengths.add(source.read_chunk(shard, chunk)[:left])
            done = (place + (chunk + 1) / num_chunks) / len(shards)
            on_progress(done if limit is None else max(done, len(lengths) / limit))
    return lengths


def draw_lengths(lengths: DocumentLengths, path: Path, title: str) -> None:
    """Draw how many documents are how long, and where their tokens are, into a PNG.

    Raises:
        MachineError: it cannot be written.
    """
    from matplotlib.figure import Figure
    from matplotlib.ticker import FuncFormatter, NullFormatter, PercentFormatter

    tokens = np.maximum(lengths.of("tokens"), 1)
    edges = np.geomspace(0.8 * tokens.min(), 1.25 * tokens.max(), 61)
    documents = np.histogram(tokens, edges)[0] / len(tokens)
    share_of_tokens = np.histogram(tokens, edges, weights=tokens)[0] / tokens.sum()
    figure = Figure(figsize=(9, 4.5), dpi=120, layout="constrained")
    axes = figure.add_subplot()
    axes.stairs(documents, edges, fill=True, color="#9db8d9", label="documents")
    axes.stairs(share_of_tokens, edges, color="#c4622d", linewidth=1.5, label="tokens")
    for value, name, style in ((np.median(tokens), "median", "-"), (tokens.mean(), "mean", "--")):
        axes.axvline(value, color="#1f4e8c", linewidth=1, linestyle=style, label=f"{name} {value:,.0f}")
    unit = "tokens (estimated)" if lengths.tokens_are_estimated else "tokens"
    axes.set(xscale="log", xlabel=f"length of a document, {unit}", ylabel="share", title=title)
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.0f}"))
    axes.xaxis.set_minor_formatter(NullFormatter())
    axes.yaxis.set_major_formatter(PercentFormatter(1.0, decimals=0))
    axes.grid(alpha=0.25)
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False)
    with replacing(path) as temporary:
        figure.savefig(temporary, format="png")
