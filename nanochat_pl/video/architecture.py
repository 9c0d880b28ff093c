"""The model of a run, part by part: sizes, windows, parameters by role and by layer."""

import re
from collections import Counter
from typing import Any

from nanochat_pl.checkpoint.header import ModelHeader
from nanochat_pl.models.contract import build_config, build_model
from nanochat_pl.video.scene import Scene, scene


def architecture_scene(header: ModelHeader, name: str) -> Scene:
    """Of what model.json says; no weights are read.

    Each parameter is counted once: in a part of a layer (attention, mlp, value_embedding) or outside of the layers
    (embedding, head, scalars: all that is no matrix). A head that shares the embedding's table counts there.
    """
    config = build_config(header.architecture, header.config)
    model = build_model(config, "meta", seed=None)
    roles = model.param_roles()
    outside: Counter[str] = Counter()
    layers: list[Counter[str]] = [Counter() for _ in range(config.n_layer)]
    for parameter_name, parameter in model.named_parameters():
        layer, part = _place(parameter_name, roles[parameter_name])
        (outside if layer is None else layers[layer])[part] += parameter.numel()
    return scene(
        "architecture",
        name,
        architecture=header.architecture,
        stage=header.stage,
        vocabulary=config.vocab_size,
        context=config.sequence_len,
        width=config.n_embd,
        heads=config.n_head,
        kv_heads=config.n_kv_head,
        head_width=config.head_dim,
        mlp_width=max(max(p.shape) for name, p in model.named_parameters() if ".mlp." in name),
        position=config.position,
        layers=[_layer(counts, window) for counts, window in zip(layers, config.windows)],
        outside={part: outside[part] for part in ("embedding", "head", "scalars")},
        parameters=sum(parameter.numel() for parameter in model.parameters()),
    )


def _place(name: str, role: str) -> tuple[int | None, str]:
    """The layer that a parameter belongs to, and the part of the layer or of the model."""
    number = re.search(r"\.(\d+)\.", name)
    layer = int(number[1]) if number else None
    if role == "value_embedding":
        return layer, "value_embedding"
    if layer is not None:
        return layer, "mlp" if ".mlp." in name else "attention"
    return None, {"embedding": "embedding", "unembedding": "head"}.get(role, "scalars")


def _layer(counts: Counter[str], window: int) -> dict[str, Any]:
    return {"window": window} | {part: counts[part] for part in ("attention", "mlp", "value_embedding")}
