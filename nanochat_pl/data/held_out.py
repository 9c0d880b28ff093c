"""What is held out of a text for validation: decided by the text itself, and never trained on."""

import hashlib
from collections.abc import Sequence


def hash_fraction(text: str) -> float:
    """A number in [0, 1) that depends on the text alone, so that copies of a document fall on the same side."""
    digest = hashlib.blake2b(text.encode("utf-8", "surrogatepass"), digest_size=8).digest()
    return int.from_bytes(digest[:6], "little") / 2**48


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
    """Documents to train on, and those whose `hash_fraction` is below `val_fraction`.

    Where so few documents leave a side empty, those with the smallest hash are held out; a single document is cut.
    """
    fractions = [hash_fraction(document) for document in documents]
    limit = val_fraction
    if documents and not 0 < sum(fraction < limit for fraction in fractions) < len(documents):
        distinct = sorted(set(fractions))
        if len(distinct) == 1:
            return split_by_position(documents[:1], val_fraction)
        limit = distinct[1]
    train = [document for document, fraction in zip(documents, fractions) if fraction >= limit]
    val = [document for document, fraction in zip(documents, fractions) if fraction < limit]
    return train, val
