"""What is held out for validation: decided by the text itself, and never trained on."""

import hashlib
from collections.abc import Sequence


def hash_fraction(text: str) -> float:
    """A number in [0, 1) that depends on the text alone, so that copies of a document fall on the same side."""
    digest = hashlib.blake2b(text.encode("utf-8", "surrogatepass"), digest_size=8).digest()
    return int.from_bytes(digest[:6], "little") / 2**48


def held_out(texts: Sequence[str], share: float) -> list[bool] | None:
    """Whether each text is held out: where its `hash_fraction` is below `share`.

    Where so few texts leave a side empty, those with the smallest hash are held out; None where all are the same.
    """
    fractions = [hash_fraction(text) for text in texts]
    distinct = sorted(set(fractions))
    if len(distinct) < 2:
        return None
    limit = share if distinct[0] < share <= distinct[-1] else distinct[1]
    return [fraction < limit for fraction in fractions]


def split_by_position(texts: Sequence[str], val_fraction: float) -> tuple[list[str], list[str]]:
    """All but the last `val_fraction` of the characters, and the rest; at most one text is cut in two."""
    train_characters = int(sum(map(len, texts)) * (1 - val_fraction))
    train, val = [], []
    for text in texts:
        train.append(text[:train_characters])
        val.append(text[train_characters:])
        train_characters = max(0, train_characters - len(text))
    return [text for text in train if text], [text for text in val if text]


def split_by_hash(documents: Sequence[str], val_fraction: float) -> tuple[list[str], list[str]]:
    """Documents to train on, and those `held_out`; a single document is cut."""
    chosen = held_out(documents, val_fraction)
    if chosen is None:
        return split_by_position(documents[:1], val_fraction)
    train = [document for document, is_val in zip(documents, chosen) if not is_val]
    val = [document for document, is_val in zip(documents, chosen) if is_val]
    return train, val
