"""The record of experiments, kept by each training at its beginning and at its end."""

import contextlib
from collections.abc import Iterator
from pathlib import Path

from lightning.pytorch import Callback, LightningModule, Trainer

from nanochat_pl.core.findings import Finding, announce
from nanochat_pl.core.paths import runs_root
from nanochat_pl.core.run_folder import RunFolder, ending_of
from nanochat_pl.reporting.experiments.experiment import Ending
from nanochat_pl.reporting.experiments.ledger import keep_experiments
from nanochat_pl.reporting.experiments.page import markdown_beside, write_markdown


class Tracker(Callback):
    """Keeps experiments.jsonl in the folder of all runs, and tells it in a Markdown file that people write in too.

    Nothing that goes wrong here ends a training: it is a finding, and what is missing is made up for from the run
    folders at the next chance.

    Args:
        markdown: the file; None: .claude/experiments.md beside the folder of all runs, where there is a .claude.
    """

    def __init__(self, markdown: str | None = None):
        self._markdown = markdown

    def on_train_start(self, trainer: Trainer, stage: LightningModule) -> None:
        self._track(trainer, Ending("running"))

    def teardown(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """After the summary and the evaluation at the end; a training that fails does not come here."""
        self._track(trainer, Ending("finished"))

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        self._track(trainer, Ending(**ending_of(exception)))

    def _track(self, trainer: Trainer, ending: Ending) -> None:
        if not trainer.is_global_zero:
            return
        root, folder = runs_root(), Path(trainer.default_root_dir)
        with _telling(trainer):
            endings = {folder.resolve().relative_to(root.resolve()).as_posix(): ending}
            with _telling(trainer):
                keep_experiments(root, endings)
            path = Path(self._markdown).expanduser() if self._markdown else markdown_beside(root)
            if path and (copy := write_markdown(path, root, endings)):
                message = f"Somebody had written inside a generated part of {path}; as it was, it is {copy}."
                _tell(trainer, message, "What is written between the parts stays where it is.")


@contextlib.contextmanager
def _telling(trainer: Trainer) -> Iterator[None]:
    try:
        yield
    except Exception as error:
        advice = "Nothing is lost: `python -m nanochat_pl experiments write` makes it anew from the run folders."
        _tell(trainer, f"The record of experiments is not up to date: {error}", advice)


def _tell(trainer: Trainer, message: str, advice: str) -> None:
    announce(RunFolder(trainer.default_root_dir), Finding("experiments_file", trainer.global_step, message, advice))
