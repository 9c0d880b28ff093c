"""ARC, questions of natural science for schools (Clark et al., arXiv 1803.05457), in an easy and a hard part."""

from nanochat_pl.tasks.hub import HubTask, load_rows, split_name
from nanochat_pl.tasks.multiple_choice import MultipleChoice

REPO = "allenai/ai2_arc"
_SPLITS = {"train": "train", "val": "validation", "test": "test"}


class ARC(HubTask, MultipleChoice):
    """Three to five choices; the letters are those of the data set (in some rows 1 to 4).

    Args:
        name: arc_easy or arc_challenge.
        path: see `load_rows`; the errors too.
    """

    def __init__(self, name: str, split: str = "train", path: str | None = None):
        self.name = name
        config = {"arc_easy": "ARC-Easy", "arc_challenge": "ARC-Challenge"}[name]
        self._rows = load_rows(REPO, config, split_name(name, split, _SPLITS), path)

    def example(self, i: int) -> tuple[str, list[str], list[str], str]:
        self._check_index(i)
        row = self._rows[i]
        return row["question"], row["choices"]["text"], row["choices"]["label"], row["answerKey"]
