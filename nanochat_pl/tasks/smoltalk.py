"""SmolTalk, general conversations for small models (Allal et al., arXiv 2502.02737): its smol edition."""

from nanochat_pl.tasks.hub import HubTask, load_rows, split_name
from nanochat_pl.tasks.task import UnscoredTask
from nanochat_pl.tokenizers.chat import Message

REPO = "HuggingFaceTB/smol-smoltalk"
_SPLITS = {"train": "train", "test": "test"}


class SmolTalk(HubTask, UnscoredTask):
    """Conversations of one or more turns, some with a system message.

    Args:
        path: see `load_rows`; the errors too.
    """

    name = "smoltalk"

    def __init__(self, split: str = "train", path: str | None = None):
        self._rows = load_rows(REPO, "default", split_name(self.name, split, _SPLITS), path)

    def conversation(self, i: int) -> list[Message]:
        self._check_index(i)
        return [{"role": m["role"], "content": m["content"]} for m in self._rows[i]["messages"]]
