"""What every model's config holds, and the nanochat model's with its switches."""

import dataclasses
import math
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from nanochat_pl.core.errors import UserError, nearest_multiples
from nanochat_pl.core.spec import Spec

if TYPE_CHECKING:
    import torch

Position = Literal["rope", "learned", "alibi", "none"]
ROPE_BASE = 100_000.0
MOST_LAYERS, LARGEST_SIZE = 10_000, 1 << 24
"""Beyond these a description is damaged: nothing can be built from it, or only in hours."""


@dataclasses.dataclass(frozen=True)
class ModelConfig(Spec):
    """Everything that `model.json` must hold to build the model again; `models.contract.build_model` builds it.

    Attributes:
        sequence_len: tokens of the context that the model is trained on; the short window derives from it.
        window_pattern: one letter a layer, repeated: L sees the last `long_window` tokens and itself, S the last
            `short_window`. The last layer is always L.
        short_window: tokens before the current one that an S layer sees; None: a quarter of the context, rounded
            up to 128.
        long_window: tokens before the current one that an L layer sees in texts longer than the trained context; None:
            no more than there.
        position: how tokens know where they stand. "rope": queries and keys are rotated; "learned": a vector of its own
            is added for each place in the row, or in the document where documents are told apart; "alibi": scores fall
            with the distance, each head's at a slope of its own (arXiv:2108.12409); "none": only by which tokens they
            see. An architecture has some of these.
        compute_dtype: of activations and embeddings; matrices are kept in float32 and cast when used.
        network: the model's class, where `models.contract.ARCHITECTURES` does not know it; called with the config and
            an `Execution`.
    """

    network: ClassVar[Any] = None

    vocab_size: int
    sequence_len: int
    n_layer: int
    n_head: int
    n_kv_head: int
    n_embd: int
    window_pattern: str = "L"
    short_window: int | None = None
    long_window: int | None = None
    position: Position = "rope"
    compute_dtype: Literal["float32", "bfloat16", "float16"] = "float32"

    def check(self) -> None:
        self._check_sizes("vocab_size", "sequence_len", "n_layer", "n_head", "n_kv_head", "n_embd")
        if self.n_embd % self.n_head:
            step = self.n_head * 2
            raise UserError(
                f"model.n_embd={self.n_embd} is not divisible by model.n_head={self.n_head}. Nearest legal widths for "
                f"{self.n_head} heads: {nearest_multiples(self.n_embd, step)}; heads that divide {self.n_embd} into "
                f"even parts: {_even_heads(self.n_embd)}."
            )
        if self.n_head % self.n_kv_head:
            legal = [n for n in range(1, self.n_head + 1) if self.n_head % n == 0]
            raise UserError(
                f"model.n_kv_head={self.n_kv_head} does not divide model.n_head={self.n_head}; "
                f"legal values: {', '.join(map(str, legal))}."
            )
        if not self.window_pattern or set(self.window_pattern) - set("SL"):
            raise UserError(
                f"model.window_pattern={self.window_pattern!r} must consist of the letters S (short window) and L "
                "(full context), such as 'SSSL' or 'L'."
            )
        if self.long_window is not None and self.long_window < self.sequence_len - 1:
            raise UserError(
                f"model.long_window={self.long_window} is less than what the trained context shows, "
                f"{self.sequence_len - 1} tokens before the last. Leave it out, or give more, for texts longer than "
                "that; short windows are model.window_pattern's S."
            )
        if self.position == "rope" and self.head_dim % 2:
            raise UserError(
                f"model.n_embd={self.n_embd} over model.n_head={self.n_head} makes heads of {self.head_dim} channels, "
                f"but the rotary embedding needs an even number. Nearest legal widths for {self.n_head} heads: "
                f"{nearest_multiples(self.n_embd, self.n_head * 2)}."
            )
        self._check_positive("short_window")

    def _check_sizes(self, *names: str) -> None:
        for name in names:
            most = MOST_LAYERS if name == "n_layer" else LARGEST_SIZE
            if not 1 <= getattr(self, name) <= most:
                raise UserError(f"model.{name} is {getattr(self, name)}, but it must be from 1 to {most:,}.")

    def _check_positive(self, *names: str) -> None:
        for name in names:
            value = getattr(self, name)
            if value is not None and not 0 < value < math.inf:  # NaN too
                raise UserError(
                    f"model.{name} is {value}, but it must be a number above 0 (or null where it can be switched off)."
                )

    @property
    def head_dim(self) -> int:
        return self.n_embd // self.n_head

    @property
    def kv_dim(self) -> int:
        return self.n_kv_head * self.head_dim

    @property
    def padded_vocab_size(self) -> int:
        """Rows of the embeddings and of the head: the vocabulary rounded up to 64."""
        return -(-self.vocab_size // 64) * 64

    @property
    def windows(self) -> tuple[int, ...]:
        """Each layer's window: tokens before the current one that it sees.

        Without `long_window` an L layer sees no further than the trained context, so that a text may go on beyond it:
        no query ever meets a distance that training has not shown it, and a row of the cache stays bounded. So it is
        with ALiBi too; its authors let it see all, and find that it hardly uses what lies further back (appendix B).
        """
        short = self.short_window or -(-self.sequence_len // 4 // 128) * 128
        letters = [self.window_pattern[i % len(self.window_pattern)] for i in range(self.n_layer - 1)]
        full = self.long_window or self.sequence_len - 1
        return (*(min(short, full) if letter == "S" else full for letter in letters), full)

    @property
    def slopes(self) -> tuple[float, ...] | None:
        """What each head's scores lose for a token of distance; None: nothing."""
        from nanochat_pl.nn.position import alibi_slopes  # imports torch, as below

        return alibi_slopes(self.n_head) if self.position == "alibi" else None

    @property
    def layer_period(self) -> int:
        """Layers after which their kinds repeat."""
        return len(self.window_pattern)

    @property
    def dtype(self) -> "torch.dtype":
        import torch  # here, so that reading a config costs no import of torch

        return getattr(torch, self.compute_dtype)


@dataclasses.dataclass(frozen=True)
class NanoChatConfig(ModelConfig):
    """The nanochat model.

    Attributes:
        qk_scale: factor of the normalised queries and of the normalised keys.
        softcap: logits are softcap * tanh(logits / softcap); None: as they come.
        value_embeddings: add a gated per-token value to attention's values in every other layer (the last included).
        smear: mix the embedding of the token before into each token.
        backout: subtract a part of the middle layer's output before the head.
        scalars: learned scale of the residual stream and of the re-added embedding at each layer.
    """

    window_pattern: str = "SSSL"
    position: Literal["rope", "alibi", "none"] = "rope"
    rope_base: float = ROPE_BASE
    qk_scale: float = 1.2
    softcap: float | None = 15.0
    value_embeddings: bool = True
    smear: bool = True
    backout: bool = True
    scalars: bool = True

    def check(self) -> None:
        super().check()
        if self.position != "rope" and self.rope_base != ROPE_BASE:
            raise UserError(
                f"model.rope_base={self.rope_base:g} belongs to model.position=rope, and this is model.position="
                f"{self.position}. Leave one of them out."
            )
        self._check_positive("softcap", "rope_base", "qk_scale")

    @property
    def layer_period(self) -> int:
        return math.lcm(len(self.window_pattern), 2 if self.value_embeddings else 1)

    @property
    def value_embedding_layers(self) -> tuple[int, ...]:
        """Layers that have a value embedding: every other one, so that the last one has it."""
        return tuple(range((self.n_layer - 1) % 2, self.n_layer, 2)) if self.value_embeddings else ()


def _even_heads(width: int) -> str:
    legal = [n for n in range(1, min(width // 8, 1024) + 1) if width % (2 * n) == 0]
    return ", ".join(map(str, legal)) if legal else "none"
