"""Hydra's and OmegaConf's exceptions as one paragraph: what, where, what to do."""

import difflib
import re
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from hydra.errors import HydraException
from omegaconf import DictConfig
from omegaconf.errors import OmegaConfBaseException

from nanochat_pl.config.compose import compose, own_config
from nanochat_pl.core.errors import MachineError, UserError, nearest


@contextmanager
def composing(arguments: Sequence[str]) -> Iterator[None]:
    """Turns Hydra's and OmegaConf's exceptions into `UserError`s about these arguments, and those of its launchers."""
    try:
        yield
    except (HydraException, OmegaConfBaseException) as error:
        raise UserError(explain(error, arguments)) from error
    except RuntimeError as error:
        if (explained := explain_launcher(error)) is None:
            raise
        raise explained from error


def explain(error: Exception, arguments: Sequence[str]) -> str:
    """One readable paragraph for an error of composing the configuration from `arguments`."""
    text = str(error)
    if match := re.search(r"Could not (?:override|append|delete)[^']*'([^'\n]+)'", text):
        return _unknown_key(match[1].partition("=")[0], arguments)
    if match := re.search(r"Could not find '(.+?)/([^/'\n]+)'", text):
        group, option = match[1], match[2]
        legal = [line.strip() for line in text.split("Available options in")[-1].splitlines()[1:] if line.strip()]
        legal = [line for line in legal if re.fullmatch(r"[\w-]+", line)]
        if group == "hydra/launcher" and option.startswith("submitit"):
            return "Sweeps on SLURM need one more package: pip install 'nanochat-pl[slurm]' (or '.[slurm]')."
        return f"{group} has no option '{option}'{nearest(option, legal)} Legal values: {', '.join(legal)}."
    if "Multiple values for" in text:
        return f"{text.splitlines()[0]} Give each group once on the command line."
    first = re.sub(r"\s+", " ", text.split("\nSee http")[0].split("\nfull_key")[0])
    return f"The command line could not be understood: {first}"


def explain_launcher(error: RuntimeError) -> Exception | None:
    """What to say of an error of submitit, which starts the jobs of a sweep; None for any other."""
    if 'Could not detect "srun"' in str(error):
        return UserError(
            "hydra/launcher=slurm gives the jobs to SLURM, but this machine has no srun. Run it on a login node of the "
            "cluster, or without a launcher: then the jobs run here, one after the other."
        )
    submitit = sys.modules.get("submitit.core.utils")
    if submitit is None or not isinstance(error, submitit.UncompletedJobError | submitit.FailedSubmissionError):
        return None
    return MachineError(
        f"A job of the sweep ended without a word, or could not be started: {error}\nThe other jobs go on by "
        "themselves, and sweep.json says how they end. When they have ended, run the same command again: what is "
        "finished stays, and the rest goes on from its last checkpoint."
    )


def _unknown_key(key: str, arguments: Sequence[str]) -> str:
    # Of a sweep such as stage=base,sft the last value, which may lack what the first has.
    rest, own = own_config(arguments)
    groups = [re.sub("=.*,", "=", argument) for argument in rest if re.fullmatch(r"\w+=[\w,]+", argument)]
    groups += [f"--config-dir={own}"] if own else []
    try:
        known = list(_dotted_keys(compose(groups)))
    except (HydraException, OmegaConfBaseException):
        known = list(_dotted_keys(compose([])))
    # The same last word in another section is the likeliest slip: trainer.devices for hw.devices.
    last = key.rpartition(".")[2]
    by_last_word = {name.rpartition(".")[2]: name for name in reversed(known)}
    close = difflib.get_close_matches(last, list(by_last_word), n=1, cutoff=0.75)
    suggestion = f"; did you mean '{by_last_word[close[0]]}'?" if close else nearest(key, known)
    here = [name for name in known if name.startswith(key.partition(".")[0] + ".")]
    legal = f" Options there: {', '.join(here)}." if here and suggestion == "." else ""
    return f"There is no option '{key}'{suggestion}{legal} `python train.py --cfg job` shows them all."


def _dotted_keys(config: DictConfig, prefix: str = "") -> Iterator[str]:
    for name in map(str, config):
        key = f"{prefix}{name}"
        if isinstance(config._get_node(name), DictConfig):
            yield from _dotted_keys(config[name], f"{key}.")
        elif name != "_target_":
            yield key
