"""What a model costs, from its config alone: parameters by role, FLOPs, bytes."""

import functools

from nanochat_pl.models.config import ModelConfig
from nanochat_pl.models.contract import ROLES, build_model


class ModelCost:
    """Counts of one model. FLOPs count a multiplication and an addition as two, in matrix products only.

    Attributes:
        parameters: all of them, the vocabulary's padding included; `parameters_by_role` splits them.
        scaling_parameters: matrices and head, which the scaling laws refer to.
        weight_bytes: of the parameters as they are kept.
        training_flops_per_token: forward and backward at the trained context. Attention is counted as PaLM does
            (arXiv:2204.02311, appendix B): the whole T x T square, or T times what a window shows.
        kv_bytes_per_token: keys and values that the cache keeps of one token.
    """

    def __init__(self, config: ModelConfig):
        model = build_model(config, device="meta", seed=None)
        roles = model.param_roles()
        self.config = config
        self.parameters_by_role = dict.fromkeys(ROLES, 0)
        for name, parameter in model.named_parameters():
            self.parameters_by_role[roles[name]] += parameter.numel()
        self.parameters = sum(self.parameters_by_role.values())
        self.scaling_parameters = self.parameters_by_role["matrix"] + self.parameters_by_role["unembedding"]
        self.weight_bytes = sum(parameter.nbytes for parameter in model.parameters())
        self._trunk_products = sum(
            parameter.numel()
            for name, parameter in model.named_parameters()
            if parameter.ndim == 2 and roles[name] in ("matrix", "gate")
        )
        self._head_products = config.vocab_size * config.n_embd
        self.kv_bytes_per_token = config.n_layer * self._layer_kv_bytes

    @property
    def training_flops_per_token(self) -> int:
        seen = sum(min(self.config.sequence_len, width) for width in self._widths)
        return 6 * (self._trunk_products + self._head_products) + 12 * self.config.n_embd * seen

    def prefill_flops(self, tokens: int) -> int:
        """To read a prompt of `tokens` and give the logits of its last position; attention counts what is seen."""
        pairs = 0
        for width in self._widths:
            full = min(width, tokens)  # tokens until the window is full: 1 + 2 + ... + full pairs
            pairs += full * (full + 1) // 2 + (tokens - full) * full
        return 2 * self._trunk_products * tokens + 2 * self._head_products + 4 * self.config.n_embd * pairs

    def decode_flops(self, context_tokens: int) -> int:
        """To add the `context_tokens`-th token of a row, which sees itself and those before."""
        seen = sum(min(context_tokens, width) for width in self._widths)
        return 2 * (self._trunk_products + self._head_products) + 4 * self.config.n_embd * seen

    def kv_read_bytes(self, context_tokens: int) -> int:
        """Keys and values that a row's `context_tokens`-th token reads."""
        return self._layer_kv_bytes * sum(min(context_tokens, width) for width in self._widths)

    @functools.cached_property
    def decode_weight_bytes(self) -> int:
        """Weights that one decoding step reads, however many rows it has: matrices and head in the compute dtype."""
        return (self._trunk_products + self._head_products) * self.config.dtype.itemsize

    @property
    def _layer_kv_bytes(self) -> int:
        return 2 * self.config.kv_dim * self.config.dtype.itemsize

    @property
    def _widths(self) -> list[int]:
        """Tokens that each layer's query sees at most: its window and itself."""
        return [window + 1 for window in self.config.windows]
