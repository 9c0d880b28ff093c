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
from nanochat_pl.models.hf_cache import HFCache, Texts, can_be_joined, empty_cache
from nanochat_pl.nn.attention.backend import Backend, document_starts
from nanochat_pl.nn.attention.fused import FusedAttention

OWN_TOKENS = ("pad_token_id", "bos_token_id", "eos_token_id")
"""Of its tokenizer: a table would never learn the row of what pads."""
KERNELS = ("attn_implementation", "experts_implementation")
"""By which a file could have the library fetch and run code."""


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
        return read_config(cut(self.values, self.n_layer) | {"vocab_size": self.padded_vocab_size})

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
        if self.window_pattern != "L":
            raise UserError(
                f"model.window_pattern={self.window_pattern} is no option of model=hf; give model.options={{"
                "sliding_window: N, layer_types: [...]}."
            )

        if "vocab_size" in (self.options or {}):
            raise UserError("model.options.vocab_size follows from the tokenizer; leave it out.")

    def of_depth(self, depth: int) -> "HFSpec":
        kind = published(self.size).get("model_type", "") if self.size else self.model_type
        options = {name: value for name, value in (self.options or {}).items() if name != "num_hidden_layers"}
        return dataclasses.replace(super().of_depth(depth), size=None, model_type=kind, options=options)

    def config(self, vocab_size: int, compute_dtype: ComputeDtype = "float32") -> HFConfig:
        values, options = published(self.size) if self.size else self._shape(), self.options or {}
        legal = [*_known(values.get("model_type")), *values]
        for name in options:
            if name not in legal:
                raise UserError(f"There is no option model.options.{name}{nearest(name, legal)}")
        if "num_hidden_layers" in options:
            values = cut(values, options["num_hidden_layers"])
        return config_of(values | options, vocab_size, compute_dtype, self.sequence_len)

    def _shape(self) -> dict[str, Any]:
        """Options by depth and width, those that this architecture has."""
        width = self.width()
        n_head = self.n_head or max(1, width // self.head_dim)
        n_kv_head = self.n_kv_head or n_head
        if width % n_head or n_head % n_kv_head:
            raise UserError(
                f"model.n_embd={width} does not go by n_head={n_head}, or n_head by n_kv_head={n_kv_head}: each must "
                "divide the one before."
            )
        sizes = {
            "hidden_size": width,
            "num_hidden_layers": self.depth,
            "num_attention_heads": n_head,
            "num_key_value_heads": n_kv_head,
            "head_dim": width // n_head,
            "intermediate_size": -(-8 * width // (3 * 64)) * 64,
            "max_position_embeddings": self.sequence_len,
        }
        known = _known(self.model_type)
        return {"model_type": self.model_type} | {name: size for name, size in sizes.items() if name in known}


def _known(model_type: Any) -> set[str]:
    """Options of an architecture's config.json."""
    config = read_config({"model_type": model_type})
    return config.to_dict().keys() | config.attribute_map.keys() | {"rope_theta", "rope_scaling"}


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
    if values.get("quantization_config"):
        raise UserError("Its weights are quantized, which are not trained here; take the model that was quantized.")
    left_out = {*OWN_TOKENS, *KERNELS, *(f"_{name}" for name in KERNELS)}
    kept = {name: value for name, value in values.items() if name not in left_out}
    try:
        try:
            return _decoder(kind, kept | dict.fromkeys(OWN_TOKENS))
        except Exception:  # some want a number there
            return _decoder(kind, kept)
    except Exception as error:  # each architecture checks its values in its own way
        reason = " ".join(str(error).split())[:300]
        raise UserError(f"transformers makes no {kind.model_type} of these options: {reason}") from error


def _decoder(kind: Any, values: dict[str, Any]) -> Any:
    config = kind.from_dict(values)
    if hasattr(config, "is_decoder"):  # or an encoder would see what comes next
        config.is_decoder = True
    return config


def library_config(model_type: Any) -> Any:
    """transformers' class of configs of an architecture.

    Raises:
        UserError: it has no such causal language model.
    """
    with _library():
        from transformers.models.auto.configuration_auto import CONFIG_MAPPING
        from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES as KNOWN
    if not isinstance(model_type, str) or model_type not in KNOWN:
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
        values = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise UserError(f"{path} is damaged: {error}.") from error
    if not isinstance(values, dict):
        raise UserError(f"{path} is damaged: it is no JSON object.")
    return values


@dataclass(frozen=True)
class Tried:
    """What no config tells of a model; found by trying it on a few tokens.

    Attributes:
        factor: of the logits, over the product with the head's weight; None: the head does something else too.
        apart: documents whose positions begin anew see nothing of the others in their row.
        joins: keys and values of tokens are all that it keeps of them.
    """

    factor: float | None
    apart: bool
    joins: bool


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
            if not self.net.supports_gradient_checkpointing:
                raise UserError(f"hw.recompute=true: transformers' {type(self.net).__name__} does not; leave it out.")
            self.net.activation_checkpointing_enable({"use_reentrant": False})
        self._tried: Tried | None = None
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
        given: dict[str, Any] = {"use_cache": False}
        if cache is not None:
            given = cache.begin(ids.size(1))
        elif documents is not None and not ids.is_meta:  # the library takes places that begin anew for a new document
            if not self.tried.apart:
                raise UserError(
                    f"transformers' {type(self.net).__name__} does not keep the documents of a row apart, which is "
                    "wanted here (in stage=sft always, elsewhere with stage.mask_documents=true). Take another "
                    "architecture."
                )
            given["position_ids"] = torch.arange(ids.size(1), device=ids.device) - document_starts(documents)
        with self._evaluating(cache is not None), self._computing(ids.device):
            factor = self._factor(ids.is_meta)
            if factor is None:
                x = self.net(input_ids=ids, **given).logits[..., : self.config.vocab_size]
            else:
                x = self._hidden(ids, **given).to(self.config.dtype) * factor
        if cache is not None:
            cache.advance(ids)
        return x

    def _anew(self, ids: Tensor, cache: Texts) -> Tensor:
        """`trunk` of the next tokens of texts that are read from their beginning."""
        cache.advance(ids)
        texts = [torch.tensor([text], device=ids.device) for text in cache.texts]
        with self._evaluating():
            return torch.cat([self.trunk(text, None, None)[:, -ids.size(1) :] for text in texts])

    def _hidden(self, ids: Tensor, **given: Any) -> Tensor:
        """(B, T, C): what the head reads."""
        whole = self.net.base_model is self.net
        return (self.net.get_decoder() if whole else self.net.base_model)(input_ids=ids, **given).last_hidden_state

    def loss_of(self, x: Tensor, targets: Tensor, weights: Tensor | None, reduction: Literal["sum", "none"]) -> Tensor:
        if self._factor(x.is_meta) is not None:
            return super().loss_of(x, targets, weights, reduction)
        losses = F.cross_entropy(
            x.float().flatten(0, 1), targets.flatten(), ignore_index=IGNORE_INDEX, reduction="none"
        ).view(targets.shape)
        losses = losses if weights is None else losses * weights
        return losses if reduction == "none" else losses.sum()

    def logits_of(self, x: Tensor) -> Tensor:
        return x.float() if self._factor(x.is_meta) is None else super().logits_of(x)

    def _factor(self, is_meta: bool) -> float | None:
        """See `Tried`; a bias is seen without trying."""
        if getattr(self.net.get_output_embeddings(), "bias", None) is not None:
            return None
        return 1.0 if is_meta else self.tried.factor

    @property
    def tried(self) -> Tried:
        """Tried once for these weights.

        Raises:
            UserError: it cannot be computed, or sees tokens that come later.
        """
        if self._tried is None:
            name = f"transformers' {type(self.net).__name__}"
            ids = torch.arange(4, device=self.head_weight.device)[None] % self.config.vocab_size
            try:
                with self._evaluating(), torch.no_grad(), torch.autocast(ids.device.type, enabled=False):
                    last = ids.clone()
                    last[:, 3] = 0
                    is_causal = _same(
                        self._hidden(ids, use_cache=False)[:, :3], self._hidden(last, use_cache=False)[:, :3]
                    )
                    tried = Tried(self._try_head(ids), self._try_documents(ids), self._try_cache(ids))
            except Exception as error:  # of code that is not ours
                reason = " ".join(str(error).split())[:300]
                raise UserError(f"{name} cannot be computed here: {type(error).__name__}: {reason}") from error
            if not is_causal:
                raise UserError(f"{name} sees tokens that come later, so it is no causal language model.")
            self._tried = tried
        return self._tried

    def _try_head(self, ids: Tensor) -> float | None:
        raw = F.linear(self._hidden(ids, use_cache=False), self.head_weight[: self.config.vocab_size])
        wanted = self.net(input_ids=ids, use_cache=False).logits[..., : self.config.vocab_size].float()
        factor = 1.0 if self.softcap else ((raw * wanted).sum() / (raw * raw).sum()).nan_to_num(1.0).item()
        factor = 1.0 if abs(factor - 1) < 1e-4 else factor
        return factor if _same(self.capped(raw * factor), wanted) else None

    def _try_documents(self, ids: Tensor) -> bool:
        places = torch.tensor([[0, 1, 0, 1]], device=ids.device)
        others = torch.cat((ids[:, 2:], ids[:, 2:]), dim=1)
        one, other = (self._hidden(each, position_ids=places, use_cache=False)[:, 2:] for each in (ids, others))
        return _same(one, other)

    def _try_cache(self, ids: Tensor) -> bool:
        cache = empty_cache(self.config.theirs)
        if joins := can_be_joined(cache):
            self._hidden(ids, past_key_values=cache, use_cache=True)
            joins = all(layer.is_initialized and layer.get_seq_length() == 4 for layer in cache.layers)
        return joins

    @contextlib.contextmanager
    def _evaluating(self, wanted: bool = True) -> Iterator[None]:
        """As a model that does not train: else what recomputes its layers keeps no keys."""
        training = self.training and wanted
        if training:
            self.eval()
        try:
            yield
        finally:
            if training:
                self.train()

    def _computing(self, device: torch.device) -> Any:
        """Products in the compute dtype, of float32 weights."""
        dtype = self.config.dtype
        if dtype is torch.float32:
            return contextlib.nullcontext()
        return torch.autocast(device.type if device.type != "meta" else "cpu", dtype)

    def param_roles(self) -> dict[str, str]:
        """The layers' matrices are matrices; a table that is the head too learns as a head does. Experts, which are
        stacks of matrices, count as vectors.
        """
        head, embedding = self.head_weight, self.embedding.weight
        in_layers = {id(x) for name, x in self.blocks.named_parameters() if x.ndim == 2 and name.endswith("weight")}
        return {
            name: "unembedding" if parameter is head
            else "embedding" if parameter is embedding
            else "matrix" if id(parameter) in in_layers
            else "vector"
            for name, parameter in self.named_parameters()
        }  # fmt: skip

    def vocabulary_tables(self) -> list[str]:
        head = self.net.get_output_embeddings()
        tables = {id(head.weight), id(getattr(head, "bias", None)), id(self.embedding.weight)}
        return [name for name, parameter in self.named_parameters() if id(parameter) in tables]

    def use_attention(self, backend: Backend) -> None:
        """Nothing: attention is the library's."""
        self.attention = backend

    def build_cache(self, rows: int, capacity: int) -> Any:
        device = self.head_weight.device
        if self.tried.joins:
            return HFCache(self.config.theirs, rows, capacity, device)
        return Texts([[] for _ in range(rows)], capacity, device)

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
        """As its own code does, where it does: what the constructor sets is not there after "meta"."""
        device = self.head_weight.device
        for parameter in self.net.parameters():
            parameter.fill_(torch.nan)
        with torch.random.fork_rng([device] if device.type == "cuda" else []):
            torch.manual_seed(seed)
            self.net.init_weights()
            unset = [name for name, parameter in self.net.named_parameters() if parameter.isnan().any()]
            fresh = dict(_build_net(self.config).named_parameters()) if unset else {}
        for name in unset:
            self.net.get_parameter(name).copy_(fresh[name])


def _build_net(config: HFConfig) -> Any:
    with _library():
        from transformers import AutoModelForCausalLM
    try:
        net = AutoModelForCausalLM.from_config(copy.deepcopy(config.theirs), dtype=torch.float32)
    except Exception as error:  # each architecture has reasons of its own
        reason = " ".join(str(error).split())[:300]
        kind = config.theirs.model_type
        raise UserError(f"transformers makes no {kind} of these options: {type(error).__name__}: {reason}") from error
    net.get_input_embeddings().padding_idx = None
    return net


def _same(one: Tensor, other: Tensor) -> bool:
    return torch.allclose(one.float(), other.float(), rtol=1e-3, atol=1e-4)


def _without_tied(model: Any, state: dict[str, Any], prefix: str, *_: Any) -> None:
    """A table that is the head too is saved once."""
    for name in model.net.all_tied_weights_keys:
        state.pop(f"{prefix}net.{name}", None)


def _with_tied(model: Any, state: dict[str, Any], prefix: str, *_: Any) -> None:
    model._tried = None  # of other weights
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
            "model=hf needs the library transformers, 5.23 or newer: pip install -U 'transformers>=5.23'"
        ) from error
