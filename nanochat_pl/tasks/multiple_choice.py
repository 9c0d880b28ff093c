"""ARC, questions of natural science for schools (Clark et al., arXiv 1803.05457), in an easy and a hard part, and MMLU,
questions of 57 subjects from school to profession (Hendrycks et al., arXiv 2009.03300)."""

from typing import ClassVar

from nanochat_pl.tasks.hub import HubTask
from nanochat_pl.tasks.task import Choices, ChoiceTask


class ARCEasy(HubTask, ChoiceTask):
    """Three to five choices; the letters are those of the data set (in some rows 1 to 4)."""

    name, repo, config = "arc_easy", "allenai/ai2_arc", "ARC-Easy"
    splits: ClassVar = {"train": "train", "val": "validation", "test": "test"}

    def choices(self, i: int) -> Choices:
        row = self.row(i)
        return Choices(row["question"], row["choices"]["text"], row["choices"]["label"], row["answerKey"])


class ARCChallenge(ARCEasy):
    """The questions that simple methods got wrong."""

    name, config = "arc_challenge", "ARC-Challenge"


class MMLU(HubTask, ChoiceTask):
    """Four choices. The split train is MMLU's auxiliary one, of other sources."""

    name, repo, config = "mmlu", "cais/mmlu", "all"
    splits: ClassVar = {"train": "auxiliary_train", "val": "validation", "test": "test"}

    def choices(self, i: int) -> Choices:
        row = self.row(i)
        return Choices(row["question"], row["choices"], list("ABCD"), "ABCD"[row["answer"]])
