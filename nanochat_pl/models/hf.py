"""Any causal language model of transformers, computed by its own code.

Attention, positions and norms are the library's, and so are the caches that it is continued with (models/hf_cache.py);
the loss is ours where its head does nothing but multiply.
"""

import contextlib
import copy
import dataclasses
import functools
import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from nanochat_pl.core.errors import UserError, nearest
from nanochat_pl.core.hardware import ComputeDtype
from nanochat_pl.core.hub_file import ON_HUB, download
from nanochat_pl.core.types import IGNORE_INDEX
from nanochat_pl.models.causal import CausalModel
from nanochat_pl.models.config import ModelConfig
from nanochat_pl.models.depth import ModelSpec
from nanochat_pl.models.execution import Execution
from nanochat_pl.models.hf_cache import Texts, build_cache
from nanochat_pl.nn.attention.backend import Backend, document_starts
from nanochat_pl.nn.attention.fused import FusedAttention

OWN_TOKENS = ("pad_token_id", "bos_token_id", "eos_token_id")
"""Of its tokenizer: a table would never learn the row of what pads."""


@dataclass(frozen=True)
class HFConfig(ModelConfig):
    """See `models.config.ModelConfig`; what stands there of windows is what its own config says.

    Attributes:
        values: its config.json. Where it says other sizes of vocabulary and depth than these fields, they count.
    """

    values: dict[str, Any] = dataclasses.field(default_factory=dict)
    position: Literal["none"] = "none"

    def __hash__(self) -> int:
        return hash(json.dumps(self.as_dict(), sort_keys=True))

    def check(self) -> None:
        self._check_sizes("vocab_size", "sequence_len", "n_layer", "n_head", "n_kv_head", "n_embd")
        if self.longest is not None and self.sequence_len > self.longest:
            raise UserError(
                f"model.sequence_len={self.sequence_len} is more than the {self.longest} positions that its own config "
                "knows (max_position_embeddings). Give less."
            )

    @functools.cached_property
    def theirs(self) -> Any:
        """The library's config of it."""
        config = read_config(cut(self.values, self.n_layer) | {"vocab_size": self.padded_vocab_size})
        for name in OWN_TOKENS:
            setattr(config, name, None)
        return config

    @property
    def longest(self) -> int | None:
        """Tokens of the longest text; None: any number."""
        return getattr(self.theirs, "max_position_embeddings", None)

    @property
    def head_dim(self) -> int:
        return getattr(self.theirs, "head_dim", None) or self.n_embd // self.n_head

    @property
    def windows(self) -> tuple[int, ...]:
        full = (self.longest or self.sequence_len) - 1
        sliding = getattr(self.theirs, "sliding_window", None)
        kinds = getattr(self.theirs, "layer_types", None) or ["sliding_attention"] * self.n_layer
        return tuple(sliding - 1 if sliding and kind == "sliding_attention" else full for kind in kinds)

    @property
    def layer_period(self) -> int:
        kinds = getattr(self.theirs, "layer_types", None) or [""]
        periods = range(1, len(kinds) + 1)
        return next(n for n in periods if all(kind == kinds[i % n] for i, kind in enumerate(kinds)))


@dataclass(frozen=True)
class HFSpec(ModelSpec):
    """conf/model/hf.yaml.

    Attributes:
        size: hf:REPOSITORY or a folder whose config.json has the shape, whatever model_type, depth and width say.
        model_type: the architecture, by transformers' name for it.
        options: of its config.json, which go before all.
    """

    head_dim: int = 64
    window_pattern: str = "L"
    size: str | None = None
    model_type: str = "qwen3"
    options: dict[str, Any] | None = None

    config_class: ClassVar[type[ModelConfig]] = HFConfig

    def check(self) -> None:
        super().check()
        if self.long_window is not None:
            raise UserError("model.long_window is no option of model=hf: its windows are its own config's.")

    def of_depth(self, depth: int) -> "HFSpec":
        spec = dataclasses.replace(super().of_depth(depth), size=None)
        return dataclasses.replace(spec, model_type=published(self.size)["model_type"]) if self.size else spec

    def config(self, vocab_size: int, compute_dtype: ComputeDtype = "float32") -> HFConfig:
        values, options = published(self.size) if self.size else self._shape(), self.options or {}
        if "num_hidden_layers" in options:
            values = cut(values, options["num_hidden_layers"])
        return config_of(values | options, vocab_size, compute_dtype, self.sequence_len)

    def _shape(self) -> dict[str, Any]:
        """Options by depth and width, those that this architecture has."""
        width = self.width()
        n_head = self.n_head or max(1, width // self.head_dim)
        sizes = {
            "hidden_size": width,
            "num_hidden_layers": self.depth,
            "num_attention_heads": n_head,
            "num_key_value_heads": self.n_kv_head or n_head,
            "head_dim": width // n_head,
            "intermediate_size": -(-8 * width // (3 * 64)) * 64,
            "max_position_embeddings": self.sequence_len,
        }
        kind = library_config(self.model_type)
        known = kind().to_dict().keys() | kind.attribute_map.keys()
        return {"model_type": self.model_type} | {name: size for name, size in sizes.items() if name in known}


def config_of(
    values: dict[str, Any], vocab_size: int | None, compute_dtype: ComputeDtype, sequence_len: int | None
) -> HFConfig:
    """Our config of a config.json.

    Args:
        vocab_size: None: as it says.
        sequence_len: that is trained on; None: the longest text.

    Raises:
        UserError: transformers has no such architecture, or cannot make one of these values.
    """
    theirs = read_config(values)
    if theirs.get_text_config(decoder=True) is not theirs:
        raise UserError(f"A {theirs.model_type} reads more than text, which is not trained here; take a model of text.")
    n_head = getattr(theirs, "num_attention_heads", 1)  # where there is no attention
    return HFConfig(
        vocab_size=vocab_size or theirs.vocab_size,
        sequence_len=sequence_len or getattr(theirs, "max_position_embeddings", None) or 2048,
        n_layer=theirs.num_hidden_layers,
        n_head=n_head,
        n_kv_head=getattr(theirs, "num_key_value_heads", None) or n_head,
        n_embd=theirs.hidden_size,
        compute_dtype=compute_dtype,
        values=json.loads(json.dumps(values)),
    )


def cut(values: dict[str, Any], layers: int) -> dict[str, Any]:
    """A config.json for fewer layers."""
    config = read_config(values)
    of_layers = {
        name: each[:layers]
        for name, each in values.items()
        if isinstance(each, list) and len(each) == config.num_hidden_layers
    }
    own_name = config.attribute_map.get("num_hidden_layers", "num_hidden_layers")
    return values | of_layers | {"num_hidden_layers": layers, own_name: layers}


def read_config(values: dict[str, Any]) -> Any:
    """transformers' config of a config.json.

    Raises:
        UserError: there is no such causal language model, or the values contradict each other.
    """
    kind = library_config(values.get("model_type"))
    try:
        return kind.from_dict(values | dict.fromkeys(OWN_TOKENS))
    except Exception as error:  # each architecture checks its values in its own way
        reason = " ".join(str(error).split())[:300]
        raise UserError(f"transformers makes no {kind.model_type} of these options: {reason}") from error


def library_config(model_type: Any) -> Any:
    """transformers' class of configs of an architecture.

    Raises:
        UserError: it has no such causal language model.
    """
    with _library():
        from transformers.models.auto.configuration_auto import CONFIG_MAPPING
        from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES as KNOWN
    if model_type not in KNOWN:
        raise UserError(
            f"transformers has no causal language model of the type {model_type!r}{nearest(str(model_type), [*KNOWN])} "
            "Models that bring code of their own are not run."
        )
    return CONFIG_MAPPING[model_type]


def published(name: str) -> dict[str, Any]:
    """The config.json of hf:REPOSITORY or of a folder.

    Raises:
        UserError: there is none, or it is damaged.
        MachineError: the hub cannot be reached.
    """
    if name.startswith(ON_HUB):
        path = download(name.removeprefix(ON_HUB), "config.json", "the model", "a folder that holds its config.json")
    else:
        path = Path(name).expanduser() / "config.json"
    if path is None or not path.is_file():
        raise UserError(f"model.size={name} has no config.json; name hf:REPOSITORY or a folder of a model.")
    try:
        return dict(json.loads(path.read_text(encoding="utf-8")))
    except ValueError as error:
        raise UserError(f"{path} is damaged: {error}.") from error


class HF(CausalModel):
    """See `models.contract.LanguageModel`.

    Attributes:
        net: the library's model.
    """

    def __init__(self, config: HFConfig, execution: Execution):
        super().__init__(config, execution)
        _check_execution(execution)
        self.net = _build_net(config)
        if execution.recompute:
            recompute = getattr(self.net, "activation_checkpointing_enable", None)  # its new name
            (recompute or self.net.gradient_checkpointing_enable)({"use_reentrant": False})
        rates = (
            value for name, value in config.theirs.to_dict().items() if "drop" in name and isinstance(value, float)
        )
        self.dropout = max(rates, default=0.0)
        self.softcap = getattr(config.theirs, "final_logit_softcapping", None)
        self.longest_text = config.longest
        self.register_state_dict_post_hook(_without_tied)
        self.register_load_state_dict_pre_hook(_with_tied)

    @property
    def embedding(self) -> nn.Embedding:  # type: ignore[override]
        """The table of tokens."""
        return self.net.get_input_embeddings()

    @property
    def blocks(self) -> nn.ModuleList:  # type: ignore[override]
        """Its layers."""
        lists = (part for part in self.net.modules() if isinstance(part, nn.ModuleList))
        return next(part for part in lists if len(part) == self.config.n_layer)

    @property
    def head_weight(self) -> Tensor:
        return self.net.get_output_embeddings().weight

    def trunk(self, ids: Tensor, cache: Any, documents: Tensor | None) -> Tensor:
        if isinstance(cache, Texts):
            return self._anew(ids, cache)
        if documents is not None and not ids.is_meta and not self._keeps_documents_apart:
            raise UserError(
                f"transformers' {type(self.net).__name__} does not keep the documents of a row apart, which is wanted "
                "here (conversations always, text with data.mask_documents=true). Take another architecture."
            )
        given: dict[str, Any] = {"use_cache": False}
        if cache is not None:
            given = cache.begin(ids.size(1))
        elif documents is not None and not ids.is_meta:  # the library takes places that begin anew for a new document
            given["position_ids"] = torch.arange(ids.size(1), device=ids.device) - document_starts(documents)
        with self._computing(ids.device):
            x = self._run(ids, given)
        if cache is not None:
            cache.advance(ids)
        return x

    def _anew(self, ids: Tensor, cache: Texts) -> Tensor:
        """`trunk` of the next tokens of texts that are read from their beginning."""
        cache.advance(ids)
        texts = [torch.tensor([text], device=ids.device) for text in cache.texts]
        return torch.cat([self.trunk(text, None, None)[:, -ids.size(1) :] for text in texts])

    def _run(self, ids: Tensor, given: dict[str, Any]) -> Tensor:
        """What the head reads, or the logits where it does more than to multiply."""
        if ids.is_meta or self._head_is_plain:
            return self.net.base_model(input_ids=ids, **given).last_hidden_state.to(self.config.dtype)
        return self.net(input_ids=ids, **given).logits[..., : self.config.vocab_size]

    def loss_of(self, x: Tensor, targets: Tensor, weights: Tensor | None, reduction: Literal["sum", "none"]) -> Tensor:
        if x.is_meta or self._head_is_plain:
            return super().loss_of(x, targets, weights, reduction)
        losses = F.cross_entropy(
            x.float().flatten(0, 1), targets.flatten(), ignore_index=IGNORE_INDEX, reduction="none"
        ).view(targets.shape)
        losses = losses if weights is None else losses * weights
        return losses if reduction == "none" else losses.sum()

    def logits_of(self, x: Tensor) -> Tensor:
        return super().logits_of(x) if x.is_meta or self._head_is_plain else x.float()

    @functools.cached_property
    def _head_is_plain(self) -> bool:
        """Whether logits are the product with the head's weight, and no bias or factor of the architecture's own.

        No config tells; so it is tried, on four tokens.
        """
        if getattr(self.net.get_output_embeddings(), "bias", None) is not None:
            return False
        with self._trying() as ids:
            x = self.net.base_model(input_ids=ids, use_cache=False).last_hidden_state
            wanted = self.net(input_ids=ids, use_cache=False).logits[..., : self.config.vocab_size]
            return torch.allclose(super().logits_of(x), wanted.float(), rtol=1e-3, atol=1e-4)

    @functools.cached_property
    def _keeps_documents_apart(self) -> bool:
        """Whether a document's tokens see nothing of another's before it: tried too, as not all architectures do it."""
        with self._trying() as ids:
            places = torch.tensor([[0, 1, 0, 1]], device=ids.device)
            others = torch.cat((ids[:, 2:], ids[:, 2:]), dim=1)
            one, other = (self.net.base_model(input_ids=each, position_ids=places, use_cache=False).last_hidden_state
                          for each in (ids, others))  # fmt: skip
            return torch.allclose(one[:, 2:], other[:, 2:], rtol=1e-3, atol=1e-4)

    @contextlib.contextmanager
    def _trying(self) -> Iterator[Tensor]:
        """Four different tokens (1, 4), for the model as it is when it does not train."""
        training = self.training
        self.eval()
        try:
            with torch.no_grad():
                yield torch.arange(4, device=self.head_weight.device)[None] % self.config.vocab_size
        finally:
            self.train(training)

    def _computing(self, device: torch.device) -> Any:
        """Products in the compute dtype, of float32 weights."""
        dtype = self.config.dtype
        if dtype is torch.float32:
            return contextlib.nullcontext()
        return torch.autocast(device.type if device.type != "meta" else "cpu", dtype)

    def param_roles(self) -> dict[str, str]:
        """Matrices of the layers are matrices; a table that is the head too learns as a head does."""
        head, embedding = self.head_weight, self.embedding.weight
        in_layers = {id(parameter) for parameter in self.blocks.parameters() if parameter.ndim == 2}
        return {
            name: "unembedding" if parameter is head
            else "embedding" if parameter is embedding
            else "matrix" if id(parameter) in in_layers
            else "vector"
            for name, parameter in self.named_parameters()
        }  # fmt: skip

    def vocabulary_tables(self) -> list[str]:
        tables = {id(self.head_weight), id(self.embedding.weight)}
        return [name for name, parameter in self.named_parameters() if id(parameter) in tables]

    def use_attention(self, backend: Backend) -> None:
        """Nothing: attention is the library's."""
        self.attention = backend

    def build_cache(self, rows: int, capacity: int) -> Any:
        return build_cache(self.config.theirs, rows, capacity, min(self.config.windows) + 1, self.head_weight.device)

    def init_buffers(self) -> None:
        """What the constructor computes, on "meta", has no values there: so it computes it once more.

        The weights of that second model are never touched, so they take no memory.
        """
        self.net.tie_weights()
        with _library():
            from transformers import AttentionInterface
            from transformers.initialization import no_init_weights
        if self.head_weight.is_meta:
            AttentionInterface.register("shapes", _attend_to_shapes)
            self.net.set_attn_implementation("shapes")
            return
        with no_init_weights():
            fresh = _build_net(self.config)
        buffers = dict(self.net.named_buffers())
        for name, buffer in fresh.named_buffers():
            buffers[name].copy_(buffer)

    @torch.no_grad()
    def init_weights(self, seed: int) -> None:
        """As its own code does."""
        device = self.head_weight.device
        with torch.random.fork_rng([device] if device.type == "cuda" else []):
            torch.manual_seed(seed)
            self.net.init_weights()


def _build_net(config: HFConfig) -> Any:
    with _library():
        from transformers import AutoModelForCausalLM
    return AutoModelForCausalLM.from_config(copy.deepcopy(config.theirs), dtype=torch.float32)


def _without_tied(model: Any, state: dict[str, Any], prefix: str, *_: Any) -> None:
    """A table that is the head too is saved once."""
    for name in model.net.all_tied_weights_keys:
        state.pop(f"{prefix}net.{name}", None)


def _with_tied(model: Any, state: dict[str, Any], prefix: str, *_: Any) -> None:
    for name, source in model.net.all_tied_weights_keys.items():
        if f"{prefix}net.{source}" in state:
            state[f"{prefix}net.{name}"] = state[f"{prefix}net.{source}"]


def _attend_to_shapes(_: Any, q: Tensor, k: Tensor, v: Tensor, *__: Any, **___: Any) -> tuple[Tensor, None]:
    """(B, H, T, D) -> (B, T, H, D), as the library's own functions do."""
    return FusedAttention.apply(q, k, v).transpose(1, 2), None


def _check_execution(execution: Execution) -> None:
    """Raise `UserError` where what is asked for needs layers of ours."""
    if execution.float8:
        raise UserError("hw.precision=float8 needs layers of ours, which model=hf has not; take hw.precision=bfloat16.")
    if execution.streaming.enabled:
        raise UserError("streaming.enabled=true needs layers of ours, which model=hf has not; leave streaming out.")


@contextlib.contextmanager
def _library() -> Iterator[None]:
    try:
        yield
    except ImportError as error:
        raise UserError(
            "model=hf needs the library transformers. Install it with: pip install 'nanochat-pl[hf]'"
        ) from error
