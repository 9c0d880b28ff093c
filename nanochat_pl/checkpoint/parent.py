"""What a stage takes over from the one before: its model, its tokenizer, its optimizer's state."""

import json
import logging
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from nanochat_pl.checkpoint.header import STAGES, read_facts, read_header
from nanochat_pl.checkpoint.named_model import folder_of
from nanochat_pl.core.errors import UserError
from nanochat_pl.core.paths import runs_root
from nanochat_pl.core.run_folder import RunFolder
from nanochat_pl.models.contract import build_config
from nanochat_pl.tokenizers.base import SPECIAL_TOKENS, Tokenizer
from nanochat_pl.tokenizers.load import load_tokenizer

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Parent:
    """The model that a stage begins with.

    Attributes:
        folder: its model folder.
        stage: that trained it.
        resumed: it is the stage's own model, as far as it has come.
        changes: of its config, which leave its weights what they are: the context, dropout.
    """

    folder: Path
    stage: str
    resumed: bool = False
    changes: Mapping[str, Any] = field(default_factory=dict)

    def origin(self) -> dict[str, Any]:
        """The model that the stage began with at first: its path, stage and step."""
        if self.resumed:
            return self.resolved().get("parent", {})
        step = int(read_facts(self.folder).get("step", 0))
        return {"path": str(self.folder.resolve()), "stage": self.stage, "step": step}

    def config(self, compute_dtype: str, learns_conversations: bool = False) -> Any:
        """Its architecture's config, to compute in another dtype.

        Args:
            learns_conversations: which have special tokens that a model from elsewhere may not know yet.

        Raises:
            UserError: the changes are none of its options, or ask for positions that it has not learned.
        """
        header = read_header(self.folder)
        values = header.config | dict(self.changes) | {"compute_dtype": compute_dtype}
        if learns_conversations:
            values["vocab_size"] = self.tokenizer().vocab_size
        config = build_config(header.architecture, values)
        if config.position == "learned" and config.sequence_len > header.config["sequence_len"]:
            raise UserError(
                f"stage.sequence_len={config.sequence_len} is more than the model has learned positions for, "
                f"{header.config['sequence_len']} ({self.folder}). Leave it out, or give less."
            )
        return config

    def tokenizer(self) -> Tokenizer:
        """Its tokenizer.

        Raises:
            UserError: it is not the one that the model was trained with.
        """
        tokenizer, vocab_size = load_tokenizer(self.folder / "tokenizer"), read_header(self.folder).config["vocab_size"]
        # A model from elsewhere may know but the first of our special tokens.
        unknown = tokenizer.vocab_size - vocab_size
        if unknown and not (0 < unknown < len(SPECIAL_TOKENS) and tokenizer.bos_id < vocab_size):
            raise UserError(
                f"{self.folder} has a tokenizer of {tokenizer.vocab_size:,} tokens, but its model knows "
                f"{vocab_size:,}: the folder tokenizer is of another model. Export it again, or name another model "
                "with stage.init_from=RUN_OR_FOLDER."
            )
        return tokenizer

    def resolved(self) -> dict[str, Any]:
        """The automatic decisions of its run; empty where they are not beside the model."""
        try:
            return json.loads((self.folder.parent / "resolved.json").read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return {}

    def last_checkpoint(self) -> Path | None:
        """The checkpoint with its optimizer's state; None where there is none beside the model."""
        path = self.folder.parent / "checkpoints" / "last.ckpt"
        return path.resolve() if path.exists() else None


def find_parent(
    stage: str, names: list[str], init_from: str | None, command: str, changes: Mapping[str, Any] | None = None
) -> Parent:
    """The model of the nearest earlier stage.

    Args:
        names: runs to look in, the first that has one wins.
        init_from: a model folder, a run, a stage of a run, or a model of Hugging Face, to be used instead.
        changes: of its config.
        command: what trains the earlier stages of this run.

    Raises:
        UserError: there is none.
    """
    if init_from is not None:
        folder = folder_of(init_from)
        return Parent(folder, read_header(folder).stage, changes=changes or {})
    for name in names:
        for earlier in STAGES[STAGES.index(stage) + 1 :]:
            folder = runs_root() / name / earlier / "model"
            if (folder / "model.json").exists():
                summary = RunFolder(folder.parent).read_summary()
                if summary.get("status", "finished") != "finished":
                    log.warning(
                        "%s has not been trained to its end (it is %s); this stage begins with what is there.",
                        folder.parent, summary["status"],
                    )  # fmt: skip
                return Parent(folder, earlier, changes=changes or {})
    looked_in = " or ".join(str(runs_root() / name) for name in names)
    raise UserError(
        f"stage={stage} begins with the model of an earlier stage, but there is none in {looked_in}. Train one with "
        f"`{command}`, or name another with stage.init_from=RUN_OR_FOLDER."
    )
