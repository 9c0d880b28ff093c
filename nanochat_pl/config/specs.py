"""All sections of train.yaml as checked objects."""

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import chain
from typing import Any

from omegaconf import DictConfig

from nanochat_pl.checkpoint.parent import Parent
from nanochat_pl.config.construct import construct, construct_optimizer
from nanochat_pl.core.errors import UserError, nearest
from nanochat_pl.core.hardware import Hardware, HardwareSpec
from nanochat_pl.data.sources import DocumentSource, read_documents
from nanochat_pl.data.specs import Sources
from nanochat_pl.models.contract import architecture_of
from nanochat_pl.models.depth import ModelSpec
from nanochat_pl.nn.molegrad import DENSE, Streaming
from nanochat_pl.optim.contract import OptimizerSpec
from nanochat_pl.optim.scaling import HorizonSpec
from nanochat_pl.optim.schedules import ScheduleSpec
from nanochat_pl.planning.plan import Plan, make_plan
from nanochat_pl.planning.speed import training_flops_per_second
from nanochat_pl.tokenizers.base import Tokenizer
from nanochat_pl.tokenizers.cache import cached_tokenizer, find_tokenizer
from nanochat_pl.tokenizers.specs import TokenizerSpec

SECTIONS = ("model", "tokenizer", "data", "optim", "schedule", "horizon", "streaming", "hw")
INHERITED = ("total_batch_tokens", "lr_scale", "weight_decay_scale")
"""Of the horizon: a later stage has them from the model that it begins with."""
OTHER_KEYS = (
    "trainer", "stage", "tasks", "task", "callbacks", "logger", "seed", "run", "recipe_name",
)  # fmt: skip


@dataclass(frozen=True)
class Specs:
    """What is trained on what; the trainer's, stage's, callbacks' and loggers' sections are built by `training`."""

    model: ModelSpec
    tokenizer: TokenizerSpec
    data: Any
    optim: OptimizerSpec
    schedule: ScheduleSpec
    horizon: HorizonSpec
    hw: HardwareSpec
    seed: int
    streaming: Streaming = DENSE

    @classmethod
    def of(cls, config: DictConfig) -> "Specs":
        """Construct and check every section.

        Raises:
            UserError: an unknown section or option, a wrong type, a value out of range.
        """
        known = SECTIONS + OTHER_KEYS
        for key in map(str, config):
            if key not in known:
                raise UserError(f"There is no section '{key}'{nearest(key, known)} Sections: {', '.join(known)}.")
        if not isinstance(config.seed, int) or isinstance(config.seed, bool) or config.seed < 0:
            raise UserError(f"seed is {config.seed!r}, but it must be a whole number, 0 or more.")
        # A run of an earlier version lacks what has come since.
        sections = {
            name: construct_optimizer(config[name]) if name == "optim" else construct(config[name], name)
            for name in SECTIONS
            if name in config
        }
        return cls(**sections, seed=config.seed)

    def plan(
        self, vocab_size: int, hardware: Hardware, parent: Parent | None = None, sources: Sources | None = None
    ) -> Plan:
        """The plan for a vocabulary on some hardware.

        Args:
            parent: the model to begin with; what the horizon leaves open is as it was there. None behind base: it is
                yet to be trained, and will be as this configuration says.
            sources: what `data.build_sources` returned, where it was called before.
        """
        horizon, epoch_tokens, note = self.horizon, None, ""
        if parent is not None:
            model, before = parent.config(hardware.compute_dtype, self.data.holds != "text"), parent.resolved()
            inherited: dict[str, Any] = {name: before.get(name) for name in INHERITED if getattr(horizon, name) is None}
            horizon = dataclasses.replace(horizon, **inherited)
            if horizon.epochs is not None:
                epoch_tokens = self.data.epoch_tokens(parent.tokenizer(), model.sequence_len, sources)
        else:
            model = self.model.config(vocab_size, hardware.compute_dtype)
            if horizon.epochs is not None and self.data.holds == "text":
                raise UserError(
                    "horizon.epochs counts passes over conversations or questions, but stage=base reads text, whose "
                    "length is not known beforehand; set horizon.steps, flops or tokens_per_parameter instead."
                )
            if horizon.epochs is not None:
                note = f"one step of those that horizon.epochs={horizon.epochs:g} takes, which are counted in the data"
                horizon = dataclasses.replace(horizon, epochs=None, steps=1)
        speed = training_flops_per_second(hardware, model.n_embd)
        plan = make_plan(
            model,
            self.model.reference(vocab_size),
            horizon,
            hardware,
            self.data.streams,
            speed,
            epoch_tokens,
            self.data.holds,
            self.streaming,
            self.optim,
        )
        warmup, steps = getattr(self.schedule, "warmup_steps", 0), plan.horizon.steps
        if warmup >= steps and not note:
            note = f"schedule.warmup_steps={warmup} is not less than the run's {steps} steps: the rates rise to its end"
        return dataclasses.replace(plan, note=note, parent=parent.origin() if parent else {})

    def check_same_model(self, parent: Parent, overrides: Sequence[str]) -> None:
        """Raise `UserError` where the command asks for another architecture than the model that it begins with has."""
        if not any(override.startswith(("model.", "model=")) for override in overrides):
            return
        config = parent.config("float32")
        other = self.model.config(config.vocab_size, "float32")
        theirs, asked = ({"model": architecture_of(one)} | one.as_dict() for one in (config, other))
        if differing := [name for name in asked if asked[name] != theirs.get(name)]:
            shown = ", ".join(f"{name} is {theirs.get(name)} there and {asked[name]} here" for name in differing[:3])
            raise UserError(
                f"A stage has the architecture of the model that it begins with, {parent.folder}: {shown}. Leave "
                "model.* out (stage.sequence_len changes the context), or name another model with "
                "stage.init_from=RUN_OR_FOLDER."
            )

    def build_tokenizer(self, sources: Sources | None = None) -> Tokenizer:
        """The tokenizer of this data: the one that made the tokens, from the cache, else trained now."""
        own = self.data.own_tokenizer()
        if own is not None:
            return own
        texts, fingerprint = self._tokenizer_texts(sources or self.data.build_sources())
        return cached_tokenizer(self.tokenizer, fingerprint, lambda: chain.from_iterable(map(read_documents, texts)))

    def find_tokenizer(self, sources: Sources) -> Tokenizer | None:
        """The tokenizer of this data, if it need not be trained."""
        return self.data.own_tokenizer() or find_tokenizer(self.tokenizer, self._tokenizer_texts(sources)[1])

    def _tokenizer_texts(self, sources: Sources) -> tuple[Sequence[DocumentSource], str]:
        """What the tokenizer is trained on, and its fingerprint."""
        texts = {"nothing": (), "train": sources[:1], "all": sources}[self.tokenizer.reads]
        return texts, "+".join(source.fingerprint for source in texts)

    def planned_vocab_size(self) -> int:
        """Known beforehand for BPE; else the tokenizer is built."""
        own = self.data.own_tokenizer()
        if own is not None:
            return own.vocab_size
        return getattr(self.tokenizer, "vocab_size", None) or self.build_tokenizer().vocab_size
