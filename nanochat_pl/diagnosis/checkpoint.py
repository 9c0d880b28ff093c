"""doctor checkpoint: what of a run can be gone on from, and a last.ckpt that points to it."""

from pathlib import Path

from nanochat_pl.checkpoint.contents import fault_of
from nanochat_pl.checkpoint.header import read_facts, read_header
from nanochat_pl.checkpoint.saved import is_sound, point_last_to, put_aside, step_checkpoints, step_of
from nanochat_pl.core.errors import UserError
from nanochat_pl.core.figures import size
from nanochat_pl.core.paths import free_name
from nanochat_pl.core.run_folder import RunFolder
from nanochat_pl.diagnosis.diagnosis import Diagnosis, examining


def diagnose(run: RunFolder, repair: bool = True) -> Diagnosis:
    """Read all checkpoints and the model of a run to their ends.

    Args:
        repair: point last.ckpt to the newest sound checkpoint, where it points elsewhere, and rename what a training
            would take for a newer one; not where one trains now.
    """
    diagnosis = Diagnosis("checkpoint", str(run.path))
    newest = _checkpoints(diagnosis, run)
    with examining(diagnosis, "last.ckpt"), run.idle() as is_idle:
        _last(diagnosis, run, newest, repair, is_idle)
    with examining(diagnosis, "The model folder"):
        _model(diagnosis, run.model)
    _leftovers(diagnosis, run)
    return diagnosis


def _checkpoints(diagnosis: Diagnosis, run: RunFolder) -> Path | None:
    """The newest sound one."""
    newest: Path | None = None
    checkpoints = step_checkpoints(run.checkpoints)
    for path in checkpoints:
        reason = fault_of(path)
        if reason is None:
            newest = newest or path
            diagnosis.good(f"{path.name} is sound, {size(path.stat().st_size)}.")
        elif not path.exists():  # a training has let go of it meanwhile
            diagnosis.info(f"{path.name} is gone: the training keeps the last ones only.")
        else:
            passed_over = newest or not is_sound(path)
            told = "Nothing to do: the same training command passes over it." if passed_over else ""
            diagnosis.wrong(f"{path.name}: {reason.removesuffix('.')}.", told)
    if newest:
        diagnosis.info(f"The newest sound checkpoint: {newest}", step=step_of(newest))
    elif checkpoints:
        diagnosis.wrong(
            "No checkpoint is sound: this stage cannot be gone on with.",
            "Train it anew with run.fresh=true. If its model below is sound, a later stage can begin with that.",
        )
    elif run.read_summary().get("step"):
        diagnosis.warn(
            f"There is no checkpoint in {run.checkpoints}, though the run has come to step "
            f"{run.read_summary()['step']}.",
            "Restore the folder, or train anew with run.fresh=true.",
        )
    else:
        diagnosis.info("There is no checkpoint yet.")
    return newest


def _last(diagnosis: Diagnosis, run: RunFolder, newest: Path | None, repair: bool, is_idle: bool | None) -> None:
    last = run.checkpoints / "last.ckpt"
    if newest is None:
        if last.is_symlink() or last.exists():
            diagnosis.warn("last.ckpt is there, but no sound checkpoint that it could point to.", "")
        return
    misleading = [path for path in step_checkpoints(run.checkpoints) if step_of(path) > step_of(newest)]
    for path in filter(is_sound, misleading):  # whole, but of no use
        if repair and is_idle is not False:
            diagnosis.info(f"Repaired: no training goes on from {path.name} now; it is {put_aside(path).name}.")
        else:
            diagnosis.warn(
                f"A training would go on from {path.name}.", f"\npython -m nanochat_pl doctor checkpoint {run.path}"
            )
    if last.is_symlink() and last.exists() and last.resolve() == newest.resolve():
        diagnosis.good(f"last.ckpt points to {newest.name}.")
        return
    if last.is_symlink():
        found = f"pointing to {last.readlink()}" + ("" if last.exists() else ", which is not there")
    else:
        found = "a file of its own" if last.exists() else "missing"
    if is_idle is False:
        diagnosis.info(f"last.ckpt is {found}; the training that runs here sets it at its next checkpoint.")
    elif not repair:
        diagnosis.warn(f"last.ckpt is {found}.", f"\npython -m nanochat_pl doctor checkpoint {run.path}")
    else:
        if last.exists() and not last.is_symlink():  # perhaps the only copy of something
            last.rename(free_name(last.with_suffix(".ckpt.before")))
        point_last_to(newest)
        diagnosis.info(
            f"Repaired: last.ckpt was {found}; now it points to {newest.name}.",
            "The same training command goes on from there.",
        )


def _model(diagnosis: Diagnosis, folder: Path) -> None:
    """The portable model: its header, every weight, its tokenizer."""
    from nanochat_pl.tokenizers.load import load_tokenizer

    if not folder.exists():
        diagnosis.info("There is no model folder yet.")
        return
    if reason := fault_of(folder):
        raise UserError(reason)
    header, facts = read_header(folder), read_facts(folder)
    tokenizer = load_tokenizer(folder / "tokenizer")
    if tokenizer.vocab_size != header.config["vocab_size"]:
        raise UserError(
            f"its tokenizer has {tokenizer.vocab_size:,} tokens, but the model knows {header.config['vocab_size']:,}: "
            "the folder tokenizer is of another model. Copy the right one, or train on, which exports it again."
        )
    step = f" of step {facts['step']:,.0f}" if "step" in facts else ""
    weights = (folder / "model.safetensors").stat().st_size
    diagnosis.good(f"The model{step} is sound, {size(weights)}, with its tokenizer of {tokenizer.vocab_size:,} tokens.")


def _leftovers(diagnosis: Diagnosis, run: RunFolder) -> None:
    """What takes space and is not used."""
    temporary = [path for path in run.path.rglob(".*.tmp") if path.is_file() and not path.is_symlink()]
    if temporary and not run.is_held():
        total = sum(path.stat().st_size for path in temporary)
        diagnosis.info(
            f"{len(temporary)} unfinished file(s) of a process that was killed, {size(total)}.",
            "The next training here removes them.",
        )
    damaged = sorted(run.checkpoints.glob("*.damaged"))
    if damaged:
        total = sum(path.stat().st_size for path in damaged)
        names = ", ".join(path.name for path in damaged)
        diagnosis.info(
            f"{len(damaged)} damaged checkpoint(s) were put aside, {size(total)}.",
            f"Nothing reads them; remove them when you like: {names}",
        )
