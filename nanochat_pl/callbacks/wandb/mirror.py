"""A thread of the first process that passes the run folder's records on to W&B; training never waits for it."""

import contextlib
import datetime
import logging
import os
import shlex
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml

from nanochat_pl.callbacks.wandb.account import DEFAULT_URL, Account
from nanochat_pl.callbacks.wandb.journal import Journal
from nanochat_pl.callbacks.wandb.lineage import give_model, use_parent
from nanochat_pl.callbacks.wandb.rows import Changes, NewRows, Row, Table
from nanochat_pl.core.findings import read_findings
from nanochat_pl.core.invocation import git_commit
from nanochat_pl.core.run_folder import RunFolder, ending_of, read_object

log = logging.getLogger(__name__)

LOOK_EVERY_SECONDS = 2.0
LEVELS = {"info": "INFO", "warning": "WARN", "error": "ERROR"}
FACTS = ("status", "step", "tokens", "val_bpb", "parameters", "wall_seconds", "seconds_to_first_step",
         "peak_memory_bytes", "git_commit")  # fmt: skip
"""Of summary.json, for W&B's table of runs."""


class Mirror(threading.Thread):
    """Gives W&B what is new in the run folder, and at the end what is left; whatever fails is told in the log."""

    def __init__(self, run: RunFolder, account: Account, options: dict[str, Any], artifact: bool, wait_seconds: float):
        super().__init__(name="wandb", daemon=True)
        self._run, self._account, self._options = run, account, options
        self._artifact, self._wait_seconds = artifact, wait_seconds
        self._rows, self._events = NewRows(run), Changes(run.events)
        self._not_taken: list[Row] = []
        self._folder = "*run-*"
        self._is_over = threading.Event()
        self._error: BaseException | None = None

    def end(self, error: BaseException | None) -> None:
        """Give what is left, and the run's end: finished where there is no error."""
        self._error = error
        self._is_over.set()
        # Each of what it may yet do ends after wait_seconds: to begin online, to begin offline, to finish.
        self.join(3 * self._wait_seconds + LOOK_EVERY_SECONDS)
        if self.is_alive():
            log.warning("W&B does not answer. Nothing is lost. %s", self._sync())

    def run(self) -> None:
        named = os.environ.get("WANDB_DATA_DIR")
        if named is None:  # all that W&B needs to send it later lies in the run folder
            os.environ["WANDB_DATA_DIR"] = str((self._run.path / "wandb" / "data").absolute())
        try:
            self._mirror()
        except TimeoutError:
            log.warning("W&B did not take all within %g s. Nothing is lost. %s", self._wait_seconds, self._sync())
        except Exception as error:
            log.warning(
                "W&B is left out from here on (%s: %s). The run folder has everything, and what is missing at W&B is "
                "made up for when the run goes on.", type(error).__name__, error,
            )  # fmt: skip
        finally:
            if named is None:
                del os.environ["WANDB_DATA_DIR"]

    def _mirror(self) -> None:
        self._journal = Journal(self._run)
        session = self._begin()
        if self._artifact:
            with _told("the model that this run begins with"):
                use_parent(session, self._run)
        while not self._is_over.wait(LOOK_EVERY_SECONDS):
            self._pass_on(session)
        self._pass_on(session, all_of_it=True)
        if self._artifact and self._error is None and not self._not_taken:
            with _told("the model"):
                give_model(session, self._run, self._journal)
        self._finish(session)

    def _begin(self) -> Any:
        """A run at W&B, or one that is kept here where W&B does not answer."""
        os.environ.setdefault("WANDB_SILENT", "true")
        os.environ.setdefault("WANDB_ERROR_REPORTING", "false")
        import wandb

        if self._account.mode == "online":
            try:
                session = self._session("online")
                log.info("W&B: %s", session.url)
                self._folder = Path(session.dir).parent.name
                self._journal.begin(self._folder, at_server=session.starting_step)
                return session
            except (wandb.Error, TimeoutError) as error:
                log.warning("W&B does not take this run now, and its records are kept here: %s", error)
                wandb.teardown()  # or the run's id were taken
        else:
            log.info("W&B is offline. %s", self._account.why)
        session = self._session("offline")
        self._folder = Path(session.dir).parent.name
        self._journal.begin(self._folder, at_server=None)
        return session

    def _session(self, mode: str) -> Any:
        import wandb

        run_name, stage = self._run.path.parent.name, self._run.path.name
        session = wandb.init(
            mode=mode,  # type: ignore[arg-type]
            id=self._journal.run_id,
            resume="allow",
            dir=self._run.path,
            name=os.environ.get("WANDB_NAME") or f"{os.environ.get('WANDB_RUN') or run_name}/{stage}",
            job_type=stage,
            config=_config(self._run),
            allow_val_change=True,
            settings=wandb.Settings(
                base_url=self._account.url,
                console="off",
                silent=True,
                disable_git=True,
                init_timeout=self._wait_seconds,
                finish_timeout=self._wait_seconds,
                finish_timeout_raises=True,
            ),
            **self._options,
        )
        session.define_metric("train/step")
        session.define_metric("*", step_metric="train/step")
        session.define_metric("val/bpb", step_metric="train/step", summary="min,last")
        return session

    def _pass_on(self, session: Any, all_of_it: bool = False) -> None:
        new = [*self._not_taken, *self._rows.read(all_of_it)]
        self._not_taken = []
        rows = [Row(row.step, self._journal.missing(row.step, row.values)) for row in new]
        rows = [row for row in rows if row.values]
        findings = []
        if self._events.settled(at_once=True):
            findings = read_findings(self._run)[self._journal.alerts :]
        try:
            first = self._journal.give([(row.step, list(row.values)) for row in rows], len(findings))
        except OSError:  # the disk is full: it is tried again at the next look
            self._not_taken, self._events = rows, Changes(self._run.events)
            return
        for number, row in enumerate(rows, first):
            if not self._takes(session, number, row):
                with contextlib.suppress(OSError):  # the disk is full, which may be why W&B did not take it
                    self._journal.take_back(number)
                self._not_taken.append(row)
        for finding in findings:
            title = f"{finding.kind.replace('_', ' ')} at step {finding.step} of {session.name}"
            # W&B leaves out an alert of the same title within this time.
            session.alert(title, str(finding), LEVELS[finding.severity], datetime.timedelta(milliseconds=1))

    def _takes(self, session: Any, number: int, row: Row) -> bool:
        """Give a row; False where its tables are not taken: they are artifacts, for which the server is asked."""
        if row.has_tables and self._not_taken:
            return False  # it has just not answered
        values = {name: _at_wandb(value) for name, value in row.values.items()}
        try:
            # W&B's own step counts the rows: unlike the optimizer's, it never stands still or goes back.
            session.log({"train/step": row.step, **values}, step=number, commit=True)
        except Exception as error:
            if not row.has_tables:
                raise
            log.debug("W&B did not take a table: %s", error)
            return False
        return True

    def _finish(self, session: Any) -> None:
        error, facts = self._error, self._run.read_summary()
        code = 0 if error is None else getattr(error, "exit_code", 1)
        facts["status"] = "finished" if error is None else ending_of(error)["status"]
        session.summary.update({name: facts[name] for name in FACTS if name in facts})
        if facts["status"] == "interrupted":
            session.mark_preempting()
        is_offline = session.offline
        session.finish(exit_code=code)
        self._journal.end()
        if is_offline:
            log.info("W&B is offline. %s", self._sync())

    def _sync(self) -> str:
        """How to send what is kept here."""
        where = "" if self._account.url == DEFAULT_URL else f"WANDB_BASE_URL={shlex.quote(self._account.url)} "
        path, name = shlex.quote(os.path.relpath(self._run.path / "wandb")), self._folder
        name = "offline-run-*" if name.startswith("offline") else name
        return f"What it lacks is kept here; send it with `{where}wandb sync {path}/{name}`."


@contextlib.contextmanager
def _told(what: str) -> Iterator[None]:
    """An error is told, and the mirror goes on."""
    try:
        yield
    except Exception as error:
        log.warning("W&B did not take %s: %s", what, error)


def _config(run: RunFolder) -> dict[str, Any]:
    """All options, and what was decided automatically."""
    config = yaml.safe_load(run.config.read_text(encoding="utf-8"))
    return config | {"plan": read_object(run.resolved), "git_commit": git_commit()}


def _at_wandb(value: float | Table) -> Any:
    import wandb

    if isinstance(value, Table):
        return wandb.Table(columns=list(value.columns), data=[list(row) for row in value.rows])
    return value
