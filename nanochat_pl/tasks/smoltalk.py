"""SmolTalk, general conversations for small models (Allal et al., arXiv 2502.02737): its smol edition."""

from typing import ClassVar

from nanochat_pl.tasks.hub import HubTask
from nanochat_pl.tasks.task import UnscoredTask
from nanochat_pl.tokenizers.chat import Message


class SmolTalk(HubTask, UnscoredTask):
    """Conversations of one or more turns, some with a system message."""

    name, repo, config = "smoltalk", "HuggingFaceTB/smol-smoltalk", "default"
    splits: ClassVar = {"train": "train", "test": "test"}

    def conversation(self, i: int) -> list[Message]:
        return [{"role": m["role"], "content": m["content"]} for m in self.row(i)["messages"]]
