"""What the `checkpoints` commands show."""

import math
from typing import TYPE_CHECKING, Any

from rich.filesize import decimal
from rich.markup import escape
from rich.table import Table

from nanochat_pl.cli.screen import show, table

if TYPE_CHECKING:
    from nanochat_pl.checkpoint.contents import Contents
    from nanochat_pl.checkpoint.difference import Difference
    from nanochat_pl.checkpoint.kept import Kept, Removal, Verdict

NAMES = 10
"""Options, or weights of another shape, that a comparison shows."""


def print_kept(kept: "list[Kept]") -> None:
    """Checkpoints and models: step, size, bits per byte, which is the last and the best; and the sum of the sizes."""
    rows = table("name", "step", "size", "val bpb", numbers=3)
    rows.add_column("")
    for one in kept:
        step = "" if one.step is None else f"{one.step:,}"
        val_bpb = "" if one.val_bpb is None else f"{one.val_bpb:.4f}"
        rows.add_row(escape(one.name), step, decimal(one.size_bytes), val_bpb, ", ".join(one.marks))
    show(rows, f"{decimal(sum(one.size_bytes for one in kept))} in all")


def description(contents: "Contents") -> dict[str, Any]:
    """What is in a checkpoint or model, as JSON can hold it.

    Raises:
        UserError: its configuration is of no model.
    """
    from nanochat_pl.models.contract import ROLES

    roles, parameters = contents.roles(), dict.fromkeys((*ROLES, "other"), 0)
    for name, weight in contents.weights.items():
        parameters[roles.get(name, "other")] += weight.numel()
    tensors = {"weights": contents.weights, "optimizer": contents.optimizer}
    return {
        "path": str(contents.path),
        "step": contents.step,
        "architecture": contents.architecture,
        "parameters": sum(parameters.values()),
        "parameters_by_role": {role: count for role, count in parameters.items() if count},
        "bytes": {what: sum(tensor.nbytes for tensor in held.values()) for what, held in tensors.items()},
        "dtypes": {
            what: sorted({str(tensor.dtype).removeprefix("torch.") for tensor in held.values()})
            for what, held in tensors.items()
        },
        "data": _cursor(contents.data),
        "config": contents.config,
        "program": contents.program,
    }


def print_description(described: dict[str, Any]) -> None:
    """A line a subject."""
    size, dtypes = described["bytes"], described["dtypes"]
    program = described["program"]
    versions = program.get("versions", {})
    rows = {
        "file": described["path"],
        "step": f"{described['step']:,}",
        "parameters": f"{described['parameters']:,}: "
        + ", ".join(f"{role} {count:,}" for role, count in described["parameters_by_role"].items()),
        "weights": f"{decimal(size['weights'])}, {', '.join(dtypes['weights'])}",
        "optimizer": f"{decimal(size['optimizer'])}, {', '.join(dtypes['optimizer'])}" if size["optimizer"] else "none",
        "data": ", ".join(f"{name} {value}" for name, value in described["data"].items()) or "none",
        "config": ", ".join(f"{name}={value}" for name, value in described["config"].items()),
        "versions": ", ".join(f"{name} {version}" for name, version in versions.items()) or "not recorded",
        "commit": program.get("git_commit") or "not recorded",
    }
    lines = Table.grid(padding=(0, 2))
    lines.add_column(justify="right", style="dim", no_wrap=True)
    lines.add_column(overflow="fold")
    for name, text in rows.items():
        lines.add_row(name, escape(text))
    show(lines)


def print_difference(before: "Contents", after: "Contents", found: "Difference", count: int) -> None:
    """Configuration, shapes, and the relative change of the weights by role and of those that changed most."""
    show(f"{escape(str(before.path))} (step {before.step:,})\n{escape(str(after.path))} (step {after.step:,})\n")
    if before.architecture != after.architecture:
        show(f"architecture: {escape(before.architecture)}, then {escape(after.architecture)}")
    for what, differing in (("config", found.config), ("shape of", found.shapes)):
        for name, (first, second) in list(differing.items())[:NAMES]:
            show(escape(f"{what} {name}: {_or_absent(first)}, then {_or_absent(second)}"))
        if len(differing) > NAMES:
            show(f"and {len(differing) - NAMES} more")
    if not found.changes:
        show("No weight has the same name and shape in both.")
    elif not any(change.relative for change in found.changes):
        show("All weights that both have in the same shape are the same.")
    else:
        changes = table("role", "change", numbers=1)
        for role, relative in sorted(found.by_role.items(), key=lambda item: -item[1]):
            changes.add_row(role, _change(relative))
        show(changes)
        changes = table("weight", "role", "change", numbers=1)
        for change in found.changes[:count]:
            changes.add_row(escape(change.name), change.role, _change(change.relative))
        if count:
            show(changes)
        show("[dim]change: norm of the difference over the norm before[/]")


def print_verdicts(verdicts: "list[Verdict]", newest_sound: dict[str, str | None]) -> None:
    """What is sound and what is not, and where it is not the newest that is."""
    for verdict in verdicts:
        told = f"[red]{escape(verdict.fault)}[/]" if verdict.fault else "[green]sound[/]"
        show(f"{escape(str(verdict.path))}: {told}")
    if any(verdict.fault for verdict in verdicts):
        for folder, path in newest_sound.items():
            show(escape(f"\nThe newest sound checkpoint: {path}" if path else f"\nNone in {folder} is sound."))


def print_removals(removals: "list[Removal]") -> None:
    """What goes and what stays of each stage, and the bytes that become free."""
    for removal in removals:
        for path in removal.unreadable:
            show(f"[red]{escape(str(path))} is damaged and left alone[/]")
        for path in sorted([*removal.stays, *removal.goes]):
            size = decimal(path.stat().st_size)
            show(f"{'remove' if path in removal.goes else 'keep':>6}  {escape(str(path))}  {size}")
    count = sum(len(removal.goes) for removal in removals)
    freed = decimal(sum(removal.freed_bytes for removal in removals))
    show(f"{count} to remove, {freed}" if count else "Nothing to remove.")


def _cursor(data: dict[str, Any]) -> dict[str, Any]:
    """Where the data stand, shortened: of RL's questions, the steps; of text, the rows and what they came from."""
    streams = data.get("streams", {})
    counted: dict[str, Any] = {name: data[name] for name in ("rows", "steps") if name in data}
    if streams:
        counted |= {"streams": len(streams), "tokens": sum(state["tokens"] for state in streams.values())}
    fingerprint = data.get("fingerprint")
    if isinstance(fingerprint, dict) and "training data" in fingerprint:
        counted["fingerprint"] = str(fingerprint["training data"])[:12]
    return counted


def _change(relative: float) -> str:
    return "from nothing" if math.isinf(relative) else f"{relative:.4g}"


def _or_absent(value: Any) -> str:
    return "absent" if value is None else str(value)
