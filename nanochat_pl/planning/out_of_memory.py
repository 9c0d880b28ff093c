"""What to do when a training has run out of memory."""

import shlex
from collections.abc import Sequence

from nanochat_pl.core.errors import MachineError
from nanochat_pl.core.figures import size
from nanochat_pl.core.hardware import Hardware
from nanochat_pl.core.paths import is_out_of_memory
from nanochat_pl.core.place import command_on
from nanochat_pl.planning.plan import Plan

REPLACED = ("hw.tokens_per_device=", "hw.recompute=", "hw.devices=", "hw.nodes=", "run.fresh=")


def out_of_memory_advice(plan: Plan, overrides: Sequence[str], error: BaseException) -> MachineError | None:
    """The error with the command that fits; None where something else is wrong.

    Args:
        overrides: of this training's command line, as Hydra reads them.
    """
    if not is_out_of_memory(error):
        return None
    said = str(error).strip().splitlines()
    full = f"The memory of {plan.hardware.chip.name} is full{f' ({said[0][:200]})' if said else ''}."
    smaller = plan.smaller()
    if smaller is None:
        recompute = "" if plan.hardware.recompute else "hw.recompute=true, which resumes this run, or in a run anew "
        return MachineError(
            f"{full} A micro-batch is one row of {plan.model.sequence_len} tokens already. Try {recompute}a shorter "
            "model.sequence_len or a smaller model.depth."
        )
    rows, takes = smaller.micro_batch_rows, size(smaller.total_bytes)
    expected = f"With micro-batches of {rows} row{'s' if rows > 1 else ''} it takes about {takes}"
    if not smaller.fits:
        expected += (
            f" of {size(plan.hardware.chip.memory_bytes)}, which may still be too much"
            f"{'' if plan.hardware.recompute else ' (then add hw.recompute=true)'}"
        )
    return MachineError(
        f"{full} {expected}, and trains on the same rows. To go on from the last checkpoint"
        f"{', on every node' if plan.hardware.nodes > 1 else ''}:\n  {command_that_fits(smaller.hardware, overrides)}"
    )


def command_that_fits(hardware: Hardware, overrides: Sequence[str]) -> str:
    """The command with this hardware's micro-batches, which trains on as many devices, whoever has started them."""
    kept = [override for override in overrides if not override.lstrip("+").startswith(REPLACED)]
    words = [*command_on(hardware), *kept, f"hw.tokens_per_device={hardware.tokens_per_device}"]
    words += ["hw.recompute=true"] if hardware.recompute else []
    return shlex.join([*words, f"hw.devices={hardware.devices}"] if hardware.devices > 1 else words)
