"""doctor checkpoint: what of a run can be gone on from, and a last.ckpt that points to it."""

import pickle
from pathlib import Path

from nanochat_pl.checkpoint.header import check_sizes, read_facts, read_header
from nanochat_pl.checkpoint.saved import is_sound, point_last_to, step_checkpoints, step_of
from nanochat_pl.core.errors import UserError
from nanochat_pl.core.run_folder import RunFolder
from nanochat_pl.diagnosis.diagnosis import Diagnosis, Examination, size
from nanochat_pl.diagnosis.subject import idle, is_training

NEEDED = ("state_dict", "optimizer_states", "loops", "global_step")
"""What a training goes on from."""


def diagnose(run: RunFolder, repair: bool = True) -> Diagnosis:
    """Read all checkpoints and the model of a run to their ends.

    Args:
        repair: point last.ckpt to the newest sound checkpoint, where it points elsewhere and nothing trains there.
    """
    diagnosis = Diagnosis("checkpoint", str(run.path))
    newest = _checkpoints(diagnosis, run)
    with Examination(diagnosis, "last.ckpt"), idle(run) as is_idle:
        _last(diagnosis, run, newest, repair, is_idle)
    with Examination(diagnosis, "The model folder"):
        _model(diagnosis, run.model)
    _leftovers(diagnosis, run)
    return diagnosis


def _checkpoints(diagnosis: Diagnosis, run: RunFolder) -> Path | None:
    """The newest sound one."""
    newest: Path | None = None
    checkpoints = step_checkpoints(run.checkpoints)
    for path in checkpoints:
        reason = fault(path)
        if reason is None:
            newest = newest or path
            diagnosis.good(f"{path.name} is sound, {size(path.stat().st_size)}.")
        elif not path.exists():  # a training has let go of it meanwhile
            diagnosis.info(f"{path.name} is gone: the training keeps the last ones only.")
        else:
            diagnosis.wrong(
                f"{path.name} {reason}.",
                "Nothing to do: the same training command passes over it and renames it to .damaged.",
            )
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


def fault(path: Path) -> str | None:
    """What is wrong with a checkpoint, in a few words; None: nothing."""
    import torch

    if not is_sound(path):
        return "is damaged (cut short or overwritten)"
    try:
        content = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
        missing = [name for name in NEEDED if name not in content]
        if missing:
            return f"is no checkpoint of a training: it lacks {', '.join(missing)}"
        if content["global_step"] != step_of(path):
            return f"holds step {content['global_step']}, not what its name says"
        for name, weight in content["state_dict"].items():
            if weight.is_floating_point() and not weight.isfinite().all():
                return f"has weights that are not finite ({name})"
    except (pickle.UnpicklingError, RuntimeError, TypeError, AttributeError, OSError, EOFError, ValueError) as error:
        said = str(error).strip().splitlines() or [type(error).__name__]
        return f"cannot be loaded: {said[0][:160]}"
    return None


def _last(diagnosis: Diagnosis, run: RunFolder, newest: Path | None, repair: bool, is_idle: bool) -> None:
    last = run.checkpoints / "last.ckpt"
    if newest is None:
        if last.is_symlink() or last.exists():
            diagnosis.warn("last.ckpt is there, but no sound checkpoint that it could point to.", "")
        return
    if last.is_symlink() and last.exists() and last.resolve() == newest.resolve():
        diagnosis.good(f"last.ckpt points to {newest.name}.")
        return
    if last.is_symlink():
        found = f"pointing to {last.readlink()}" + ("" if last.exists() else ", which is not there")
    else:
        found = "a file of its own" if last.exists() else "missing"
    if not is_idle:
        diagnosis.info(f"last.ckpt is {found}; the training that runs here sets it at its next checkpoint.")
    elif not repair:
        diagnosis.warn(f"last.ckpt is {found}.", f"\npython -m nanochat_pl doctor checkpoint {run.path}")
    else:
        if last.exists() and not last.is_symlink():  # perhaps the only copy of something
            last.rename(_free_name(last.with_suffix(".ckpt.before")))
        point_last_to(newest)
        diagnosis.info(
            f"Repaired: last.ckpt was {found}; now it points to {newest.name}.",
            "The same training command goes on from there.",
        )


def _free_name(path: Path) -> Path:
    while path.exists():
        path = path.with_name(f"{path.name}x")
    return path


def _model(diagnosis: Diagnosis, folder: Path) -> None:
    """The portable model: its header, every weight, its tokenizer."""
    from nanochat_pl.tokenizers.load import load_tokenizer

    if not folder.exists():
        diagnosis.info("There is no model folder yet.")
        return
    header = read_header(folder)
    check_sizes(folder, header.config)
    facts = read_facts(folder)
    _check_weights(folder, header.architecture, header.config)
    tokenizer = load_tokenizer(folder / "tokenizer")
    if tokenizer.vocab_size != header.config["vocab_size"]:
        raise UserError(
            f"its tokenizer has {tokenizer.vocab_size:,} tokens, but the model knows {header.config['vocab_size']:,}: "
            "the folder tokenizer is of another model. Copy the right one, or train on, which exports it again."
        )
    step = f" of step {facts['step']:,.0f}" if "step" in facts else ""
    weights = (folder / "model.safetensors").stat().st_size
    diagnosis.good(f"The model{step} is sound, {size(weights)}, with its tokenizer of {tokenizer.vocab_size:,} tokens.")


def _check_weights(folder: Path, architecture: str, config: dict[str, object]) -> None:
    """Raise `UserError` where a weight is missing, of another shape, or not finite."""
    from safetensors import safe_open

    from nanochat_pl.models.contract import build_config, build_model

    expected = {
        name: tuple(weight.shape)
        for name, weight in build_model(build_config(architecture, config), "meta", None).state_dict().items()
    }
    with safe_open(folder / "model.safetensors", framework="pt") as file:
        there = set(file.keys())
        if differing := sorted(there ^ expected.keys()):
            raise UserError(f"its weights are of another architecture: {', '.join(differing[:3])}. Export it again.")
        for name in sorted(there):
            weight = file.get_tensor(name)
            if tuple(weight.shape) != expected[name]:
                raise UserError(f"{name} has the shape {tuple(weight.shape)}, not {expected[name]}. Export it again.")
            if weight.is_floating_point() and not weight.isfinite().all():
                raise UserError(f"{name} is not finite. Take an earlier checkpoint: checkpoints list {folder.parent}")


def _leftovers(diagnosis: Diagnosis, run: RunFolder) -> None:
    """What takes space and is not used."""
    temporary = [path for path in run.path.rglob(".*.tmp") if path.is_file() and not path.is_symlink()]
    if temporary and not is_training(run):
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
