"""Depth as the one dial: width and heads follow from it, each can be set by hand."""

import dataclasses
from dataclasses import dataclass
from typing import Any, ClassVar, Literal, Self

from nanochat_pl.core.errors import UserError
from nanochat_pl.core.hardware import ComputeDtype
from nanochat_pl.core.spec import Spec
from nanochat_pl.models.config import ROPE_BASE, ModelConfig, NanoChatConfig
from nanochat_pl.optim.scaling import heads_for_width, width_for_depth

REFERENCE_DEPTH = 12


@dataclass(frozen=True)
class ModelSpec(Spec):
    """A model as a user chooses it in conf/model, before the vocabulary is known; an architecture adds its own options,
    by the names of its config.

    Attributes:
        depth: number of layers.
        aspect_ratio: width per layer of depth; the width is rounded up to a multiple of `head_dim`.
        n_embd, n_head, n_kv_head: None follows from depth, aspect_ratio and head_dim.
        sequence_len: the trained context T.
        window_pattern, long_window: see `models.config.ModelConfig`.
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

    config_class: ClassVar[type[ModelConfig]]

    def check(self) -> None:
        for name in ("depth", "aspect_ratio", "head_dim", "sequence_len"):
            if getattr(self, name) < 1:
                raise UserError(f"model.{name} is {getattr(self, name)}; it must be at least 1.")

    def shaped(self) -> Self:
        """With depth, width and heads in place of a name for them."""
        return self

    def width(self) -> int:
        """n_embd, given or by depth."""
        return width_for_depth(self.depth, self.aspect_ratio, self.head_dim) if self.n_embd is None else self.n_embd

    def of_depth(self, depth: int) -> Self:
        """The same kind of model of another depth, from which width and heads follow."""
        return dataclasses.replace(self.shaped(), depth=depth, n_embd=None, n_head=None, n_kv_head=None)

    def config(self, vocab_size: int, compute_dtype: ComputeDtype = "float32") -> Any:
        """The model's config for a vocabulary.

        Raises:
            UserError: width, heads and head size don't fit each other; names the nearest that do.
        """
        spec = self.shaped()
        n_embd = spec.width()
        n_head = heads_for_width(n_embd, spec.head_dim) if spec.n_head is None else spec.n_head
        n_kv_head = n_head if spec.n_kv_head is None else spec.n_kv_head
        names = {field.name for field in dataclasses.fields(self.config_class)} & vars(spec).keys()
        shared = {name: getattr(spec, name) for name in names}
        shapes = dict(n_layer=spec.depth, n_embd=n_embd, n_head=n_head, n_kv_head=n_kv_head)
        return self.config_class(**shared | shapes, vocab_size=vocab_size, compute_dtype=compute_dtype)

    def reference(self, vocab_size: int) -> ModelConfig:
        """nanochat's d12 with this vocabulary, to which the scaling laws refer."""
        return NanoChatSpec(depth=REFERENCE_DEPTH).config(vocab_size)


@dataclass(frozen=True)
class NanoChatSpec(ModelSpec):
    """conf/model/nanochat.yaml."""

    position: Literal["rope", "alibi", "none"] = "rope"
    rope_base: float = ROPE_BASE
    qk_scale: float = 1.2
    softcap: float | None = 15.0
    value_embeddings: bool = True
    smear: bool = True
    backout: bool = True
    scalars: bool = True

    config_class: ClassVar[type[ModelConfig]] = NanoChatConfig
