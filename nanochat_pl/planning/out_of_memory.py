"""What to do when a training has run out of memory."""

import shlex
from collections.abc import Sequence

from nanochat_pl.core.errors import MachineError
from nanochat_pl.core.paths import is_out_of_memory
from nanochat_pl.planning.plan import Plan
from nanochat_pl.planning.screen import gigabytes

REPLACED = ("hw.tokens_per_device=", "run.fresh=")


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
    kept = [override for override in overrides if not override.lstrip("+").startswith(REPLACED)]
    tokens = smaller.hardware.tokens_per_device
    return MachineError(
        f"{full} With half the micro-batch it takes about {gigabytes(sum(smaller.memory_bytes.values()))}, and trains "
        "on the same rows. To go on from the last checkpoint:\n"
        f"  {shlex.join(['python', 'train.py', *kept, f'hw.tokens_per_device={tokens}'])}"
    )
