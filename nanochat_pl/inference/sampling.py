"""The settings of one answer; `inference.choosing` follows them. No torch here: who asks for answers needs none."""

from dataclasses import dataclass

from nanochat_pl.core.errors import UserError
from nanochat_pl.core.spec import Spec


@dataclass(frozen=True)
class Sampling(Spec):
    """How one answer is drawn. The filters apply in this order: repetition penalty, temperature, top-k, top-p, min-p.

    Attributes:
        max_new_tokens: sampled tokens at most.
        temperature: 0 takes the likeliest token.
        top_k: choose among the k likeliest; None: among all.
        top_p: choose among the likeliest that together have this probability (arXiv:1904.09751).
        min_p: leave out what is less likely than this share of the likeliest (arXiv:2407.01082).
        repetition_penalty: divides the positive and multiplies the negative logits of tokens that were there before
            (CTRL, arXiv:1909.05858); 1: none.
        seed: of the answer's own random numbers, whatever else is drawn beside it.
        stop_ids: tokens that end the answer.
        logprobs: give each token's log-probability, before any filter.
    """

    max_new_tokens: int = 256
    temperature: float = 1.0
    top_k: int | None = None
    top_p: float | None = None
    min_p: float | None = None
    repetition_penalty: float = 1.0
    seed: int = 0
    stop_ids: tuple[int, ...] = ()
    logprobs: bool = False

    @property
    def is_filtered(self) -> bool:
        """Whether unlikely tokens are left out."""
        return self.top_k is not None or self.top_p is not None or self.min_p is not None

    def check(self) -> None:
        if self.max_new_tokens < 0:
            raise UserError(f"max_new_tokens is {self.max_new_tokens}; it must be at least 0.")
        # Beyond these the float32 logits overflow.
        if self.temperature != 0 and not 1e-3 <= self.temperature <= 1e3:
            raise UserError(
                f"temperature is {self.temperature}; it must be 0 (takes the likeliest token) or lie between 0.001 and "
                "1,000."
            )
        if not 0 <= self.seed < 1 << 63:
            raise UserError(f"seed is {str(self.seed)[:30]}; it must be at least 0 and below 2^63.")
        if self.top_k is not None and self.top_k < 1:
            raise UserError(f"top_k is {self.top_k}; it must be at least 1, or null to choose among all tokens.")
        if self.top_p is not None and not 0 < self.top_p <= 1:
            raise UserError(f"top_p is {self.top_p}; it must lie above 0 and at most at 1, or be null.")
        if self.min_p is not None and not 0 <= self.min_p < 1:
            raise UserError(f"min_p is {self.min_p}; it must be at least 0 and below 1, or null.")
        if not 1e-3 <= self.repetition_penalty <= 1e3:
            raise UserError(
                f"repetition_penalty is {self.repetition_penalty}; it must lie between 0.001 and 1,000 (1: no penalty)."
            )
