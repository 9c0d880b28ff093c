"""What of a row is read, and what is learned."""

import numpy as np

from nanochat_pl.core.types import IGNORE_INDEX

LEARNED = 1 << 28
"""Added to the id of a token that counts as a target, where not all do."""


def inputs_and_targets(block: np.ndarray, *, marked: bool, padding_id: int) -> tuple[np.ndarray, np.ndarray]:
    """Inputs and targets (R, T) of rows (R, T + 1).

    Args:
        block: ids; IGNORE_INDEX behind the end of the text.
        marked: only ids with LEARNED added are targets; else all are.
        padding_id: what is read behind the end.
    """
    if marked:
        learned = block >= LEARNED
        block = np.where(learned, block - LEARNED, block)
        targets = np.where(learned, block, IGNORE_INDEX)
    else:
        targets = block
    return np.where(block == IGNORE_INDEX, padding_id, block)[:, :-1], targets[:, 1:]
