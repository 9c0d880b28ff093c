"""MMLU, questions of 57 subjects from school to profession (Hendrycks et al., arXiv 2009.03300)."""

from nanochat_pl.tasks.hub import HubTask, load_rows, split_name
from nanochat_pl.tasks.multiple_choice import MultipleChoice

REPO = "cais/mmlu"
_SPLITS = {"train": "auxiliary_train", "val": "validation", "test": "test"}
_LETTERS = ("A", "B", "C", "D")


class MMLU(HubTask, MultipleChoice):
    """Four choices. The split train is MMLU's auxiliary one, of other sources.

    Args:
        path: see `load_rows`; the errors too.
    """

    name = "mmlu"

    def __init__(self, split: str = "train", path: str | None = None):
        self._rows = load_rows(REPO, "all", split_name(self.name, split, _SPLITS), path)

    def example(self, i: int) -> tuple[str, list[str], list[str], str]:
        self._check_index(i)
        row = self._rows[i]
        return row["question"], row["choices"], list(_LETTERS), _LETTERS[row["answer"]]
