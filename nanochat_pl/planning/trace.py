"""The memory of a forward and a backward pass, found by running them on shapes alone.

The model is built on torch's meta device, where tensors have a size but no content, and every storage is counted as it
comes and goes. Nothing is computed, so a step of any model takes tenths of a second on any machine.
"""

import dataclasses
import functools
import weakref
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_iter

from nanochat_pl.models import causal
from nanochat_pl.models.contract import build_model
from nanochat_pl.models.execution import Execution
from nanochat_pl.models.hf import HFConfig
from nanochat_pl.nn import cross_entropy
from nanochat_pl.nn.attention.fused import Fused
from nanochat_pl.nn.molegrad import DENSE, Streaming


@dataclass(frozen=True)
class Traced:
    """Bytes beside weights and their gradients.

    Attributes:
        activations: that the layers keep for the backward pass.
        peak: the most at any moment.
    """

    activations: int
    peak: int


@functools.lru_cache(maxsize=256)
def trace(
    config: Any,
    rows: int,
    accelerator: str,
    recompute: bool = False,
    documents: bool = False,
    streaming: Streaming = DENSE,
) -> Traced:
    """A forward and a backward pass over (rows, sequence_len) tokens, gradients being there already.

    Args:
        config: of the model; what the layers keep repeats with its `layer_period`, so that few of them tell of many.
        documents: several conversations in a row, which don't see each other.
    """
    period = config.layer_period
    layers = min(config.n_layer, 2 * period)
    execution = Execution(recompute=recompute, streaming=streaming)
    model = build_model(dataclasses.replace(config, n_layer=layers), "meta", None, execution)
    if accelerator != "cpu":  # on "meta" the model has chosen the CPU's attention
        model.use_attention(Fused())
    sketches = [sketch for low_rank in model.low_rank.values() for sketch in low_rank]
    for parameter in (*model.parameters(), *sketches):
        if parameter.requires_grad:
            parameter.grad = torch.empty_like(parameter)
    ids = torch.empty(rows, config.sequence_len, dtype=torch.int64, device="meta")
    ledger = _Ledger()
    for place, layer in (("first", 0), ("second", layers // 2)):
        model.blocks[layer].register_forward_pre_hook(lambda *_, place=place: ledger.note(place))
    try:
        with _head_as_on(accelerator, ledger), ledger:
            model(ids, ids, documents=ids if documents else None).backward()
    except Exception:
        if isinstance(config, HFConfig):  # whose code is not ours, and may need more than shapes
            return _as_a_dense_one(config, rows, recompute)
        raise
    period_bytes = ledger.noted["second"] - ledger.noted["first"]
    further = round((config.n_layer - layers) / period * period_bytes)
    kept = ledger.noted.get("head", ledger.peak)  # a head of another code's own is not told apart
    return Traced(kept + further, ledger.peak + further)


def _as_a_dense_one(config: Any, rows: int, recompute: bool) -> Traced:
    """Of a usual transformer of this size in half precision, twice, without attention's scores (arXiv:2205.05198)."""
    of_layer = 2 * 34 * rows * config.sequence_len * config.n_embd
    kept = config.n_layer * (of_layer // 17 if recompute else of_layer)
    logits = 4 * rows * config.sequence_len * config.padded_vocab_size
    return Traced(kept, kept + of_layer + logits)


class _Ledger(TorchDispatchMode):
    """Counts the bytes of the storages that are made under it, while they live.

    Attributes:
        noted: the bytes that lived at some place.
    """

    def __init__(self) -> None:
        super().__init__()
        self.live, self.peak = 0, 0
        self.noted: dict[str, int] = {}
        self._known: set[int] = set()

    def note(self, place: str) -> None:
        """Keep what lives now."""
        self.noted[place] = self.live

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        given = {x.untyped_storage()._cdata for x in tree_iter((args, kwargs)) if isinstance(x, Tensor)}
        made = func(*args, **(kwargs or {}))
        for x in tree_iter(made):
            if isinstance(x, Tensor):
                self._add(x.untyped_storage(), given)
        return made

    def _add(self, storage: torch.UntypedStorage, given: set[int]) -> None:
        key = storage._cdata
        if key in self._known or key in given:
            return
        self._known.add(key)
        self.live += storage.nbytes()
        self.peak = max(self.peak, self.live)
        weakref.finalize(storage, self._remove, key, storage.nbytes())

    def _remove(self, key: int, size: int) -> None:
        self._known.discard(key)
        self.live -= size


@contextmanager
def _head_as_on(accelerator: str, ledger: _Ledger) -> Iterator[None]:
    """The head's loss, on "meta", in chunks as on `accelerator`; it notes what there is before it."""

    def head(*args: Any, **options: Any) -> Tensor:
        ledger.note("head")
        return cross_entropy.linear_cross_entropy(*args, **options)

    own = causal.linear_cross_entropy
    chunk_bytes = cross_entropy.CHUNK_BYTES.get(accelerator, cross_entropy.ACCELERATOR_CHUNK_BYTES)
    causal.linear_cross_entropy = head
    cross_entropy.CHUNK_BYTES["meta"] = chunk_bytes
    try:
        yield
    finally:
        causal.linear_cross_entropy = own
        del cross_entropy.CHUNK_BYTES["meta"]
