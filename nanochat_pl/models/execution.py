"""How a model computes what it computes: nothing of this is part of the model, or saved with it."""

from dataclasses import dataclass

from nanochat_pl.core.hardware import AttentionBackend
from nanochat_pl.nn.molegrad import DENSE, Streaming


@dataclass(frozen=True)
class Execution:
    """Choices of speed and memory, for one process.

    Attributes:
        attention: the backend, see `nn.attention.choose`; None: the fastest that is here.
        recompute: keep no activations within a block, compute them again in the backward pass.
        float8: multiply in float8 in training.
        compile: torch.compile what is computed between the model's large matrix products, in training, where every
            batch has the same shape.
        streaming: which matrices keep low-rank gradients.
    """

    attention: AttentionBackend | None = None
    recompute: bool = False
    float8: bool = False
    compile: bool = False
    streaming: Streaming = DENSE
