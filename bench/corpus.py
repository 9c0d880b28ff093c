"""The same text and tokenizer for both projects: tiny-world documents in parquet files, as nanochat reads them."""

import random
from pathlib import Path

ROW_GROUP_DOCUMENTS = 256


def build_corpus(folder: Path, documents: int, document_chars: int) -> tuple[Path, Path]:
    """Write a training and a validation file in nanochat's folder for data; returns them.

    A document is several of the tiny world's with lines of invented words between them, for the world's own words
    give only about 4,000 different tokens.
    """
    import pyarrow
    import pyarrow.parquet

    from nanochat_pl.tiny_world.documents import document

    words = _invented_words(20_000)
    choice = random.Random(0)
    target = folder / "nanochat" / "base_data_climbmix"
    target.mkdir(parents=True)
    paths, index = (target / "shard_00000.parquet", target / "shard_06542.parquet"), 0
    for path, count in zip(paths, (documents, max(64, documents // 50))):
        texts = []
        for _ in range(count):
            parts: list[str] = []
            length = choice.uniform(0.2, 1.8) * document_chars
            while sum(map(len, parts)) < length:
                parts.append(document(index, "train"))
                parts.append(" ".join(choice.choices(words, k=12)) + ".")
                index += 1
            texts.append("\n".join(parts))
        table = pyarrow.table({"text": texts})
        pyarrow.parquet.write_table(table, path, row_group_size=ROW_GROUP_DOCUMENTS)
    return paths


def _invented_words(count: int) -> list[str]:
    choice = random.Random(1)
    syllables = [a + b + c for a in "bcdfghjklmnprstvz" for b in "aeiou" for c in ("", "n", "r", "s", "l")]
    return ["".join(choice.choices(syllables, k=choice.randint(2, 4))) for _ in range(count)]


def training_overrides(train: Path, val: Path, vocab_size: int, hw: str | None = "cpu") -> list[str]:
    """train.py's arguments for this text; `hw` None leaves the profile open."""
    return [
        "data=text",
        f"data.files=[{train}]",
        f"data.val_files=[{val}]",
        "data.val_tokens=4096",
        "tokenizer=bpe",
        f"tokenizer.vocab_size={vocab_size}",
        *([f"hw={hw}"] if hw else []),
        "run.name=bench",
    ]


def build_tokenizer(overrides: list[str], folder: Path) -> None:
    """Train our tokenizer into the cache, where train.py will find it, and save it in `folder` for nanochat."""
    from nanochat_pl.config.compose import compose
    from nanochat_pl.config.specs import Specs

    Specs.of(compose(overrides)).build_tokenizer().save(folder)
