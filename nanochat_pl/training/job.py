"""What is trained: one stage of one run."""

import dataclasses
from dataclasses import dataclass
from typing import Any, Self

from omegaconf import DictConfig, OmegaConf

from nanochat_pl.config.compose import run_name, settle_horizon
from nanochat_pl.config.construct import construct
from nanochat_pl.config.specs import Specs
from nanochat_pl.core.errors import UserError
from nanochat_pl.core.flat import flat
from nanochat_pl.core.place import place, placed
from nanochat_pl.core.run_folder import RunFolder

FITTING_DATA = {"text": "data=tiny", "conversations": "data=chats", "questions": "data=prompts"}


@dataclass(frozen=True)
class Job:
    """One stage of one run, as its configuration describes it.

    Attributes:
        overrides: the command's, of which messages make further commands.
        started: `time.perf_counter()` when this invocation (in a sweep: this job) began.
        stage_spec: of the stage that trains.
        run: its folder.
    """

    config: DictConfig
    overrides: list[str]
    started: float
    specs: Specs
    stage_spec: Any
    run: RunFolder

    @classmethod
    def of(cls, config: DictConfig, overrides: list[str], started: float) -> Self:
        """Of a composed configuration.

        Raises:
            UserError: an option is wrong, or the data don't hold what the stage trains on, or the
                profile asks for other devices than a launcher has started.
        """
        settle_horizon(config, overrides)
        specs, stage_spec = Specs.of(config), construct(config.stage, "stage")
        if specs.data.holds != stage_spec.trains_on:
            raise UserError(
                f"stage={stage_spec.name} trains on {stage_spec.trains_on}, but the data of this command hold "
                f"{specs.data.holds} (by data=, or by its experiment). Choose {FITTING_DATA[stage_spec.trains_on]}, "
                "or another stage."
            )
        run = RunFolder.of(run_name(config, overrides), stage_spec.name)
        specs = dataclasses.replace(specs, hw=placed(specs.hw, place()))
        return cls(config, overrides, started, specs, stage_spec, run)

    def in_plain(self) -> dict[str, Any]:
        """The configuration as JSON can hold it."""
        return OmegaConf.to_container(self.config, resolve=True)  # type: ignore[return-value]

    def facts(self) -> dict[str, Any]:
        """The configuration by the dotted names of its options: what all processes must hold alike."""
        return flat(self.in_plain())
