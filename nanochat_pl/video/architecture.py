"""The model of a run, part by part: sizes, windows, parameters by role and by layer."""

import re
from collections import Counter
from typing import Any

from nanochat_pl.checkpoint.header import ModelHeader
from nanochat_pl.core.errors import UserError
from nanochat_pl.models.contract import build_config, build_model
from nanochat_pl.video.scene import Scene, scene


def architecture_scene(header: ModelHeader, name: str) -> Scene:
    """Of what model.json says; no weights are read.

    Each parameter is counted once: in a part of a layer (attention, mlp, value_embedding) or outside of the layers
    (embedding, head, learned positions, scalars: all that is no matrix). A head that shares the embedding's table
    counts there, and head is 0. `table_rows` are those of both, padding included.

    Raises:
        UserError: a block has no part `mlp` with a matrix `fc`, so that attention and MLP cannot be told apart.
    """
    config = build_config(header.architecture, header.config)
    model = build_model(config, "meta", seed=None)
    roles = model.param_roles()
    widths = [len(p) for name, p in model.named_parameters() if re.fullmatch(r"blocks\.\d+\.mlp\.fc\.weight", name)]
    if not widths:
        raise UserError(
            f"The video shows attention and MLP of each layer, and a block of {header.architecture} has no part `mlp` "
            "with a matrix `fc`, by which they would be told apart. The other videos show this model."
        )
    outside: Counter[str] = Counter()
    layers: list[Counter[str]] = [Counter() for _ in range(config.n_layer)]
    for parameter_name, parameter in model.named_parameters():
        layer, part = _place(parameter_name, roles[parameter_name], parameter.ndim)
        (outside if layer is None else layers[layer])[part] += parameter.numel()
    if not outside["embedding"]:
        outside["embedding"] = outside.pop("head")
    return scene(
        "architecture",
        name,
        architecture=header.architecture,
        stage=header.stage,
        vocabulary=config.vocab_size,
        table_rows=len(model.head_weight),
        context=config.sequence_len,
        width=config.n_embd,
        heads=config.n_head,
        kv_heads=config.n_kv_head,
        head_width=config.head_dim,
        mlp_width=max(widths),
        position=config.position,
        layers=[_layer(counts, window) for counts, window in zip(layers, config.windows)],
        outside={part: outside[part] for part in ("embedding", "head", "positions", "scalars")},
        parameters=sum(parameter.numel() for parameter in model.parameters()),
    )


def _place(name: str, role: str, ndim: int) -> tuple[int | None, str]:
    """The layer that a parameter belongs to, and the part of the layer or of the model."""
    number = re.search(r"\.(\d+)\.", name)
    if number and role == "value_embedding":
        return int(number[1]), "value_embedding"
    if number and name.startswith("blocks."):
        return int(number[1]), "mlp" if ".mlp." in name else "attention"
    if role == "vector" and ndim == 2:
        return None, "positions"
    return None, {"embedding": "embedding", "unembedding": "head"}.get(role, "scalars")


def _layer(counts: Counter[str], window: int) -> dict[str, Any]:
    return {"window": window} | {part: counts[part] for part in ("attention", "mlp", "value_embedding")}
