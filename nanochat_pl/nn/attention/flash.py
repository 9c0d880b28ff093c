"""FlashAttention: torch's own kernels, those of its later versions that torch can be told to use, and its package."""

import importlib
import inspect
from collections.abc import Callable, Iterable
from typing import Any, ClassVar

import torch
from torch import Tensor

from nanochat_pl.core.hardware import AttentionBackend
from nanochat_pl.nn.attention.backend import Backend, is_start

_TRIAL_TOKENS = 32


class Flash(Backend):
    """torch's `varlen_attn`: the rows, or the documents in them, are sequences one behind the other; windows are fast.

    With documents, their number is read from the device: one wait a micro-batch.
    """

    name: AttentionBackend = "flash"
    takes_slopes = False  # of these kernels only the package's would
    kernels: ClassVar[str] = "torch's FlashAttention"
    module: ClassVar[str] = "torch.nn.attention.varlen"
    package: ClassVar[str] = "a newer torch"
    implementation: ClassVar[str | None] = None
    """What torch is told to use instead of its own kernels, in the whole process."""

    _function: Callable[..., Any]
    _options: dict[str, Any]

    def why_not(self, device: torch.device, dtype: torch.dtype, head_dim: int) -> str | None:
        """Tries the kernels out, forward and backward; what this loads stays loaded unless it fails."""
        if device.type != "cuda" or not torch.cuda.is_available():
            return f"{self.kernels} needs an NVIDIA GPU"
        if dtype not in (torch.bfloat16, torch.float16):
            return f"{self.kernels} takes bfloat16 or float16, not {str(dtype).removeprefix('torch.')}"
        try:
            self.load()
            _use(self.implementation)
            with torch.inference_mode(False), torch.enable_grad():
                self._try(device, dtype, head_dim)
        except ModuleNotFoundError:
            _use(None)
            return f"it needs {self.package}, which is not installed"
        except Exception as error:  # whatever a kernel says of a chip that it was not made for
            _use(None)
            return f"{self.kernels} failed in a trial ({str(error).strip().partition(chr(10))[0]})"
        return None

    def see(
        self, B: int, T: int, windows: Iterable[int], documents: Tensor | None, device: torch.device
    ) -> dict[int, Tensor]:
        """(N + 1,) int32, where each sequence of the flattened batch begins, and where the last one ends."""
        if documents is None:
            bounds = torch.arange(0, B * T + 1, T, dtype=torch.int32, device=device)
        else:
            bounds = document_bounds(documents)
        return dict.fromkeys(windows, bounds)

    def attend(self, q: Tensor, k: Tensor, v: Tensor, window: int, scale: float, seen: Tensor) -> Tensor:
        B, H, T, D = q.shape
        q, k, v = (x.transpose(1, 2).reshape(B * T, -1, D) for x in (q, k, v))
        y = self._run(q, k, v, seen, T, (-1 if window >= T - 1 else window, 0), scale)
        return y.view(B, T, H, D).transpose(1, 2)

    def load(self) -> None:
        """Import the kernels."""
        self._function = importlib.import_module(self.module).varlen_attn
        knows_gqa = "enable_gqa" in inspect.signature(self._function).parameters  # before, it took fewer heads unasked
        self._options = {"enable_gqa": True} if knows_gqa else {}

    def _run(
        self, q: Tensor, k: Tensor, v: Tensor, bounds: Tensor, longest: int, window: tuple[int, int], scale: float
    ) -> Tensor:
        """q (B * T, H, D), k and v (B * T, H_kv, D) -> (B * T, H, D)."""
        return self._function(
            q, k, v, bounds, bounds, longest, longest, scale=scale, window_size=window, **self._options
        )

    def _try(self, device: torch.device, dtype: torch.dtype, head_dim: int) -> None:
        """A window, shared heads and documents, there and back."""
        shapes = ((1, heads, _TRIAL_TOKENS, head_dim) for heads in (2, 1, 1))
        q, k, v = (torch.ones(shape, device=device, dtype=dtype, requires_grad=True) for shape in shapes)
        documents = torch.arange(_TRIAL_TOKENS, device=device)[None] // 20
        self(q, k, v, window=8, documents=documents).sum().backward()
        torch.cuda.synchronize(device)


class Flash3(Flash):
    """FlashAttention 3, for Hopper, through torch's activation."""

    name = "flash3"
    kernels = "FlashAttention 3"
    package = "FlashAttention 3's package (the module flash_attn_interface)"
    implementation = "FA3"


class Flash4(Flash):
    """FlashAttention 4, for Hopper and Blackwell, through torch's activation."""

    name = "flash4"
    kernels = "FlashAttention 4"
    package = "FlashAttention 4's package (the module flash_attn.cute)"
    implementation = "FA4"


class Flash2(Flash):
    """The flash-attn package."""

    name = "flash2"
    kernels = "FlashAttention 2"
    package = "the package flash-attn"

    def load(self) -> None:
        from flash_attn import flash_attn_varlen_func

        self._function = flash_attn_varlen_func

    def _run(
        self, q: Tensor, k: Tensor, v: Tensor, bounds: Tensor, longest: int, window: tuple[int, int], scale: float
    ) -> Tensor:
        return self._function(
            q, k, v, bounds, bounds, longest, longest, softmax_scale=scale, causal=True, window_size=window
        )


def document_bounds(documents: Tensor) -> Tensor:
    """(N + 1,) int32, the bounds of all documents (B, T) in the flattened batch.

    Empty sequences at the end bring N to a power of two, so that what is compiled meets few shapes; a block of the
    model is compiled once for all of them.
    """
    starts = is_start(documents).flatten().nonzero().flatten()
    bounds = starts.new_full(((1 << (len(starts) - 1).bit_length()) + 1,), documents.numel(), dtype=torch.int32)
    bounds[: len(starts)] = starts
    torch._dynamo.maybe_mark_dynamic(bounds, 0)
    return bounds


def _use(implementation: str | None) -> None:
    """Make torch run FlashAttention by other kernels, or (None) by its own again."""
    from torch.nn import attention

    if implementation is not None:
        if not hasattr(attention, "activate_flash_attention_impl"):
            raise RuntimeError("this torch can use no kernels but its own")
        attention.activate_flash_attention_impl(implementation)
    elif hasattr(attention, "restore_flash_attention_impl") and attention.current_flash_attention_impl() is not None:
        attention.restore_flash_attention_impl()
