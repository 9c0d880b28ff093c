"""What the stages of a run have kept on the disk: listed, verified, pruned by a rule."""

import contextlib
import dataclasses
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from nanochat_pl.checkpoint.header import read_facts
from nanochat_pl.checkpoint.named_model import find_saved, find_stages
from nanochat_pl.checkpoint.saved import Keep, point_last_to, step_checkpoints, step_of
from nanochat_pl.core.errors import UserError
from nanochat_pl.core.run_folder import RunFolder


@dataclass(frozen=True)
class Kept:
    """A checkpoint or a model.

    Attributes:
        name: as the commands take it.
        path: the file.
        step: None where it is not known.
        val_bpb: validation bits per byte, None where they were not measured.
        marks: what it is in its stage: "last", "best", "model", "damaged".
    """

    name: str
    path: Path
    step: int | None
    size_bytes: int
    val_bpb: float | None = None
    marks: tuple[str, ...] = ()

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        return dataclasses.asdict(self) | {"path": str(self.path)}


def kept_in(run: RunFolder) -> list[Kept]:
    """The checkpoints of a stage in the order of training, those set aside as damaged, and its model."""
    paths = step_checkpoints(run.checkpoints)[::-1]
    val_bpb = _val_bpb(run)
    known = [step for step in map(step_of, paths) if step in val_bpb]
    best = min(known[::-1], key=lambda step: val_bpb[step], default=None)
    last = (run.checkpoints / "last.ckpt").resolve().name
    kept = []
    for path in paths:
        step = step_of(path)
        marks = (*(["last"] if path.name == last else []), *(["best"] if step == best else []))
        kept.append(Kept(f"{run.path}@{step}", path, step, path.stat().st_size, val_bpb.get(step), marks))
    for path in _set_aside(run):
        kept.append(Kept(str(path), path, None, path.stat().st_size, marks=("damaged",)))
    weights = run.model / "model.safetensors"
    if weights.is_file():
        facts, marks = {}, ("model", "damaged")
        with contextlib.suppress(UserError):
            facts, marks = read_facts(run.model), ("model",)
        of_step = int(facts["step"]) if "step" in facts else None
        kept.append(Kept(str(run.model), weights, of_step, weights.stat().st_size, facts.get("val_bpb"), marks))
    return kept


@dataclass(frozen=True)
class Verdict:
    """Of one checkpoint, model or link.

    Attributes:
        fault: what is wrong, in words; None: nothing.
    """

    path: Path
    fault: str | None

    @property
    def is_checkpoint(self) -> bool:
        return self.path in step_checkpoints(self.path.parent)


def verify(name: str) -> list[Verdict]:
    """Read all that a run or a stage has kept, or one checkpoint or model, to its end.

    Raises:
        UserError: there is nothing of this name.
    """
    try:
        stages = find_stages(name)
    except UserError:
        return [_verdict(find_saved(name))]
    return [verdict for stage in stages for verdict in _verify_stage(stage)]


def newest_sound_among(verdicts: list[Verdict]) -> dict[str, str | None]:
    """Folder of checkpoints -> the newest without a fault; None where all have one."""
    newest: dict[str, str | None] = {}
    for verdict in verdicts:  # in the order of training
        if verdict.is_checkpoint:
            before = newest.get(str(verdict.path.parent))
            newest[str(verdict.path.parent)] = before if verdict.fault else str(verdict.path)
    return newest


def _verify_stage(run: RunFolder) -> list[Verdict]:
    verdicts = [_verdict(path) for path in reversed(step_checkpoints(run.checkpoints))]
    last = run.checkpoints / "last.ckpt"
    if verdicts and not last.exists():
        fault = "it is missing, or points to nothing; the training's own command mends it when it goes on"
        verdicts.append(Verdict(last, fault))
    if (run.model / "model.safetensors").is_file():
        verdicts.append(_verdict(run.model))
    return verdicts


def _verdict(path: Path) -> Verdict:
    from nanochat_pl.checkpoint.contents import fault_of  # torch: seconds that a listing needn't cost

    return Verdict(path, fault_of(path))


@dataclass(frozen=True)
class Removal:
    """What a rule keeps of a stage and what it lets go.

    Attributes:
        goes: to be removed; the newest sound checkpoint never is.
        unreadable: damaged, and left alone.
    """

    run: RunFolder
    stays: list[Path]
    goes: list[Path]
    unreadable: list[Path]

    @property
    def freed_bytes(self) -> int:
        return sum(path.stat().st_size for path in self.goes)

    def carry_out(self) -> None:
        """Remove them; `last.ckpt` is the newest sound one then."""
        if self.stays:
            point_last_to(max(self.stays, key=step_of))
        for path in self.goes:
            path.unlink()


def plan_removal(run: RunFolder, keep: Keep) -> Removal:
    """Read every checkpoint of a stage, and see which of the sound ones a rule keeps.

    Raises:
        UserError: the rule keeps the best, but nothing is known of how good they are.
    """
    checkpoints = step_checkpoints(run.checkpoints)
    sound = {step_of(path): path for path in checkpoints if _verdict(path).fault is None}
    val_bpb = _val_bpb(run)
    if keep.best and sound and not sound.keys() & val_bpb.keys():
        raise UserError(
            f"Nothing was removed: no bits per byte are known of the checkpoints in {run.path} (metrics.csv has none), "
            "so the best cannot be told. Leave --keep-best out, or name the stages that have them."
        )
    kept = keep.chosen({step: path.stat().st_size for step, path in sound.items()}, val_bpb)
    return Removal(
        run,
        stays=[path for step, path in sound.items() if step in kept],
        goes=[path for step, path in sound.items() if step not in kept],
        unreadable=[path for path in checkpoints if path not in sound.values()] + _set_aside(run),
    )


def _set_aside(run: RunFolder) -> list[Path]:
    """What a resume found damaged, and renamed."""
    return sorted(run.checkpoints.glob("step-*.damaged"))


def _val_bpb(run: RunFolder) -> dict[int, float]:
    return dict(run.read_metrics().get("val/bpb", []))
