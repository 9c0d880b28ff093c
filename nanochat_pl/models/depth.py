"""Depth as the one dial: width and heads follow from it, each can be set by hand."""

import dataclasses
from dataclasses import dataclass

from nanochat_pl.core.errors import UserError
from nanochat_pl.core.hardware import ComputeDtype
from nanochat_pl.core.spec import Spec
from nanochat_pl.models.config import ROPE_BASE, NanoChatConfig, Position
from nanochat_pl.optim.scaling import heads_for_width, width_for_depth

REFERENCE_DEPTH = 12


@dataclass(frozen=True)
class NanoChatSpec(Spec):
    """conf/model/nanochat.yaml: the model as a user chooses it, before the vocabulary is known.

    Attributes:
        depth: number of layers.
        aspect_ratio: width per layer of depth; the width is rounded up to a multiple of `head_dim`.
        n_embd, n_head, n_kv_head: None follows from depth, aspect_ratio and head_dim.
        sequence_len: the trained context T.
        others: as of `NanoChatConfig`.
    """

    depth: int = REFERENCE_DEPTH
    aspect_ratio: int = 64
    head_dim: int = 128
    n_embd: int | None = None
    n_head: int | None = None
    n_kv_head: int | None = None
    sequence_len: int = 2048
    window_pattern: str = "SSSL"
    long_window: int | None = None
    position: Position = "rope"
    rope_base: float = ROPE_BASE
    qk_scale: float = 1.2
    softcap: float | None = 15.0
    value_embeddings: bool = True
    smear: bool = True
    backout: bool = True
    scalars: bool = True

    def check(self) -> None:
        for name in ("depth", "aspect_ratio", "head_dim", "sequence_len"):
            if getattr(self, name) < 1:
                raise UserError(f"model.{name} is {getattr(self, name)}; it must be at least 1.")

    def config(self, vocab_size: int, compute_dtype: ComputeDtype = "float32") -> NanoChatConfig:
        """The model's config for a vocabulary.

        Raises:
            UserError: width, heads and head size don't fit each other; names the nearest that do.
        """
        n_embd = width_for_depth(self.depth, self.aspect_ratio, self.head_dim) if self.n_embd is None else self.n_embd
        n_head = heads_for_width(n_embd, self.head_dim) if self.n_head is None else self.n_head
        n_kv_head = n_head if self.n_kv_head is None else self.n_kv_head
        names = {field.name for field in dataclasses.fields(NanoChatConfig)} & {
            f.name for f in dataclasses.fields(self)
        }
        shared = {name: getattr(self, name) for name in names}
        shapes = dict(n_layer=self.depth, n_embd=n_embd, n_head=n_head, n_kv_head=n_kv_head)
        return NanoChatConfig(**shared | shapes, vocab_size=vocab_size, compute_dtype=compute_dtype)

    def reference(self, vocab_size: int) -> NanoChatConfig:
        """nanochat's d12 with this vocabulary, to which the scaling laws refer."""
        return NanoChatSpec(depth=REFERENCE_DEPTH).config(vocab_size)
