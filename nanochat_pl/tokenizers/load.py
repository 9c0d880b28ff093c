"""Reading a saved tokenizer back, whatever its kind."""

import base64
import json
from pathlib import Path

from nanochat_pl.tokenizers.base import HEADER_FILE, Tokenizer
from nanochat_pl.tokenizers.bpe import MERGES_FILE, BPETokenizer


def load_tokenizer(folder: Path) -> Tokenizer:
    """The tokenizer saved in `folder`."""
    header = json.loads((Path(folder) / HEADER_FILE).read_text(encoding="utf-8"))
    lines = (Path(folder) / MERGES_FILE).read_text(encoding="ascii").splitlines()
    ranks = {base64.b64decode(token): int(rank) for token, rank in (line.split() for line in lines)}
    return BPETokenizer(ranks, header["pattern"])
