"""The JSON that a composition of remotion/ draws: its header, how it is written, and how one is read back."""

import json
from pathlib import Path
from typing import Any

from nanochat_pl.core.errors import UserError, nearest
from nanochat_pl.core.paths import write_text

FORMAT = "nanochat_pl.video"
VERSION = 2
"""Of the schema in remotion/src/schema, which refuses another one."""

COMPOSITIONS = {
    "architecture": "TransformerArchitecture",
    "loss": "TrainingLoss",
    "attention": "AttentionVisualization",
    "scaling": "ScalingLaws",
    "pipeline": "DataPipeline",
}
"""What a video is called -> the composition that draws it."""

Scene = dict[str, Any]
"""The content of such a file: `format`, `version`, `kind` (a key of COMPOSITIONS), `name` (of the run), figures."""


def scene(kind: str, name: str, **figures: Any) -> Scene:
    """The figures of one video under their header."""
    assert kind in COMPOSITIONS
    return {"format": FORMAT, "version": VERSION, "kind": kind, "name": name} | figures


def as_text(content: Scene) -> str:
    """As JSON, the same for the same figures."""
    return json.dumps(content, ensure_ascii=False, allow_nan=False, separators=(",", ":")) + "\n"


def write_scene(content: Scene, path: Path) -> None:
    """Write the file at once or not at all."""
    write_text(path, as_text(content))


def read_scene(path: Path, kind: str) -> Scene:
    """What `write_scene` wrote.

    Raises:
        UserError: it is no such file, of another version, or the figures of another video.
    """
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise UserError(
            f"{path} cannot be read as JSON: {error}. `video {kind} RUN --data-only` writes one."
        ) from error
    if not isinstance(content, dict) or content.get("format") != FORMAT:
        raise UserError(f'{path} holds no figures of a video: it has no "format": "{FORMAT}".')
    if content.get("version") != VERSION:
        raise UserError(
            f"{path} is of version {content.get('version')}, and this program draws version {VERSION}. Write it again: "
            f"`video {kind} RUN --data-only`."
        )
    if content.get("kind") != kind:
        raise UserError(f"{path} holds the figures of `{content.get('kind')}`, not of `{kind}`.")
    return content


def kind_of(word: str) -> str:
    """A video by its name or by its composition's.

    Raises:
        UserError: there is none of this name.
    """
    names = {composition.lower(): kind for kind, composition in COMPOSITIONS.items()} | {k: k for k in COMPOSITIONS}
    if word.lower() not in names:
        raise UserError(f"There is no video '{word}'{nearest(word, list(names))} Videos: {', '.join(COMPOSITIONS)}.")
    return names[word.lower()]


def rounded(value: float, digits: int = 5) -> float:
    """To so many significant digits: no more are ever shown."""
    return float(f"{value:.{digits}g}")
