"""A model as a Hugging Face folder: transformers loads it, and what is built on transformers."""

import json
from importlib import resources
from pathlib import Path
from typing import Any

import nanochat_pl
from nanochat_pl.checkpoint.hf_card import model_card
from nanochat_pl.checkpoint.hf_formats import FORMATS, MODELING_FILE, RECORD, HubFormat
from nanochat_pl.checkpoint.hf_library import write_weights
from nanochat_pl.checkpoint.hf_tokenizer import build_hf_tokenizer
from nanochat_pl.checkpoint.model_folder import LoadedModel
from nanochat_pl.core.errors import UserError
from nanochat_pl.core.paths import replacing, write_text
from nanochat_pl.models.contract import architecture_of
from nanochat_pl.models.hf import HFConfig
from nanochat_pl.tokenizers.base import BOS

CHAT_TEMPLATE = "chat_template.jinja"
TURN_END = "<|assistant_end|>"
"""Stands for padding too, for which our tokenizers have no token of its own.

Without an attention mask transformers takes padding tokens in a prompt for padding, unless they are stop tokens: this
one never is in a base model's prompt, and it stops a chat model.
"""


def export_to_hf(loaded: LoadedModel, source: str, out: Path) -> HubFormat:
    """Write `loaded` to the folder `out`; an earlier export there is replaced, other files are left alone.

    Args:
        source: the model's name, to be recorded.

    Returns:
        The format it was written in.

    Raises:
        UserError: there is no format for the model, `out` holds something else or cannot be a folder, or the tokenizer
            cannot be expressed.
        MachineError: the disk is full or not writable.
    """
    config = loaded.model.config
    hub_format = _format_of(config)
    built = build_hf_tokenizer(loaded.tokenizer, loaded.is_chat)
    files = {
        "tokenizer.json": built.to_str(pretty=True),
        "tokenizer_config.json": _json(_tokenizer_config(loaded)),
        "generation_config.json": _json(_token_ids(loaded)),
        "README.md": model_card(loaded, source, hub_format.name, hub_format.modeling_file is not None),
        "config.json": _json(_config(loaded, hub_format)),
    }
    for name in (CHAT_TEMPLATE if loaded.is_chat else None, hub_format.modeling_file):
        if name is not None:
            files[name] = (resources.files("nanochat_pl.checkpoint.hf") / name).read_text(encoding="utf-8")
    _prepare(out)
    record = {
        "format": "nanochat_pl.export",
        "nanochat_pl": nanochat_pl.__version__,
        "source": source,
        "stage": loaded.stage,
        "facts": loaded.facts,
        "architecture": architecture_of(config),
        "config": config.as_dict(),
    }
    write_text(out / RECORD, _json(record))
    for stale in ("config.json", CHAT_TEMPLATE, MODELING_FILE):  # without config.json nothing loads what is half done
        (out / stale).unlink(missing_ok=True)
    if isinstance(config, HFConfig):
        write_weights(out, loaded.model)
    else:
        _write_weights(out / "model.safetensors", loaded.model, hub_format)
    for name in sorted(files, key="config.json".__eq__):
        write_text(out / name, files[name])
    return hub_format


def _format_of(config: Any) -> HubFormat:
    architecture = architecture_of(config)
    found = next((entry for entry in FORMATS.get(architecture, ()) if entry.fits(config)), None)
    if found is None:
        raise UserError(
            f"transformers has no model that computes what this {architecture} does (its positions, windows or biases "
            "are not the published ones), so it cannot be exported."
        )
    return found


def _prepare(out: Path) -> None:
    """See that `out` is free for an export."""
    try:
        out.mkdir(parents=True, exist_ok=True)
    except (FileExistsError, NotADirectoryError) as error:
        raise UserError(f"{out} cannot be made: a file is in its place. Name another folder with --out.") from error
    if any(out.iterdir()) and not (out / RECORD).is_file():
        raise UserError(
            f"{out} is not empty, and what it holds was not written by an export. Name another folder with --out, or "
            "empty this one."
        )


def _write_weights(path: Path, model: Any, hub_format: HubFormat) -> None:
    from safetensors.torch import save_file

    config, tables, weights = model.config, model.vocabulary_tables(), {}
    for name, weight in model.state_dict().items():
        if name in tables:
            weight = weight[: config.vocab_size]  # without the vocabulary's padding
        weights[name] = weight.detach().to("cpu", config.dtype).contiguous()
    if hub_format.weights is not None:
        weights = hub_format.weights.export(weights)
    with replacing(path) as temporary:
        save_file(weights, temporary, metadata={"format": "pt"})


def _config(loaded: LoadedModel, hub_format: HubFormat) -> dict[str, Any]:
    config = loaded.model.config
    tied = loaded.model.head_weight is loaded.model.embedding.weight
    shape = hub_format.describe(config)
    if isinstance(config, HFConfig):
        shape |= {"architectures": [type(loaded.model.net).__name__]}
    return {**shape, **_token_ids(loaded), "dtype": config.compute_dtype, "tie_word_embeddings": tied}


def _token_ids(loaded: LoadedModel) -> dict[str, Any]:
    tokenizer = loaded.tokenizer
    return {
        "bos_token_id": tokenizer.bos_id,
        "eos_token_id": [tokenizer.special_tokens[name] for name in _stop_tokens(loaded)],
        "pad_token_id": tokenizer.special_tokens[TURN_END],
    }


def _stop_tokens(loaded: LoadedModel) -> list[str]:
    """What ends an answer, as in `inference.conversation.stop_ids`."""
    return [TURN_END, BOS] if loaded.is_chat else [BOS]


def _tokenizer_config(loaded: LoadedModel) -> dict[str, Any]:
    return {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "bos_token": BOS,
        "eos_token": _stop_tokens(loaded)[0],
        "pad_token": TURN_END,
        "padding_side": "left",
        "model_max_length": loaded.model.config.sequence_len,
        "model_input_names": ["input_ids", "attention_mask"],
        "clean_up_tokenization_spaces": False,
    }


def _json(content: dict[str, Any]) -> str:
    return json.dumps(content, indent=2) + "\n"
