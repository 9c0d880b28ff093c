"""CORE's tasks: a folder in the layout of nanochat's eval_bundle, given by path or downloaded once.

`core.yaml` lists the tasks, `eval_meta_data.csv` has the accuracy of guessing for each, `eval_data/` the examples.
"""

import csv
import json
import random
import shutil
import tempfile
import urllib.error
import urllib.request
import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args

from filelock import FileLock

from nanochat_pl.core.errors import MachineError, UserError
from nanochat_pl.core.paths import data_root, is_disk_error

BUNDLE_URL = "https://karpathy-public.s3.us-west-2.amazonaws.com/eval_bundle.zip"
FOLDER = "eval_bundle"
SHUFFLE_SEED = 1337

Kind = Literal["multiple_choice", "schema", "language_modeling"]
FIELDS: dict[str, dict[str, type]] = {
    "multiple_choice": {"query": str, "choices": list, "gold": int},
    "schema": {"context_options": list, "continuation": str, "gold": int},
    "language_modeling": {"context": str, "continuation": str},
}
"""What an example of each kind must have."""

Example = dict[str, Any]


@dataclass(frozen=True)
class CoreTask:
    """One of CORE's tasks.

    Attributes:
        delimiter: between a question and its answer.
        baseline: accuracy of guessing, 0 to 1.
        path: the examples, a JSON object a line.
    """

    label: str
    kind: Kind
    num_fewshot: int
    delimiter: str
    baseline: float
    path: Path

    def examples(self, max_per_task: int | None = None) -> list[Example]:
        """The examples in CORE's fixed shuffled order, the first `max_per_task` of them.

        Raises:
            UserError: a line that is no example of this kind, or too few examples for the few-shot prompts.
        """
        examples: list[Example] = []
        try:
            with self.path.open(encoding="utf-8") as lines:
                examples.extend(self._checked(json.loads(line)) for line in lines)
        except ValueError as error:
            raise UserError(f"{self.path}, line {len(examples) + 1}: {error}. {_another(self.path)}") from error
        random.Random(SHUFFLE_SEED).shuffle(examples)
        examples = examples[:max_per_task]
        if len(examples) <= self.num_fewshot:
            raise UserError(
                f"The CORE task {self.label} shows {self.num_fewshot} other examples before each question, so it needs "
                f"at least {self.num_fewshot + 1}; there are {len(examples)}. Choose a larger max_per_task, or none."
            )
        return examples

    def _checked(self, example: Any) -> Example:
        if not isinstance(example, dict):
            raise ValueError("not a JSON object")
        for field, kind in FIELDS[self.kind].items():
            if not isinstance(example.get(field), kind):
                raise ValueError(f"an example of {self.kind} must have {field!r} ({kind.__name__})")
        if self.kind != "language_modeling":
            options = example["choices" if self.kind == "multiple_choice" else "context_options"]
            if not all(isinstance(option, str) for option in options):
                raise ValueError("an option is not a text")
            if not 0 <= example["gold"] < len(options):
                raise ValueError(f"'gold' is {example['gold']}, but there are {len(options)} options")
        return example


def load_core_tasks(folder: Path) -> list[CoreTask]:
    """The tasks of a bundle's folder, in its order.

    Raises:
        UserError: it is no bundle, or a part of it is missing.
    """
    import yaml

    try:
        listed = yaml.safe_load((folder / "core.yaml").read_text(encoding="utf-8"))["icl_tasks"]
        with (folder / "eval_meta_data.csv").open(encoding="utf-8", newline="") as file:
            baselines = {row["Eval Task"]: float(row["Random baseline"]) / 100 for row in csv.DictReader(file)}
        tasks = [
            CoreTask(
                label=entry["label"],
                kind=entry["icl_task_type"],
                num_fewshot=entry["num_fewshot"][0],
                delimiter=entry.get("continuation_delimiter", " "),
                baseline=baselines[entry["label"]],
                path=folder / "eval_data" / entry["dataset_uri"],
            )
            for entry in listed
        ]
    except OSError as error:
        raise UserError(f"{folder} holds no CORE tasks: {error}. {_another(folder)}") from error
    except (yaml.YAMLError, ValueError, TypeError, KeyError, IndexError) as error:
        raise UserError(f"{folder} is not in the layout of CORE's tasks: {error!r}. {_another(folder)}") from error
    for task in tasks:
        if task.kind not in get_args(Kind):
            raise UserError(
                f"{folder}/core.yaml: {task.label} is of kind {task.kind!r}; known: {', '.join(get_args(Kind))}."
            )
        if not task.path.is_file():
            raise UserError(f"{folder} is incomplete: {task.path} is missing. {_another(folder)}")
    return tasks


def _another(path: Path) -> str:
    """What to do about a file of a bundle, or its folder, that is damaged."""
    downloaded = data_root() / FOLDER
    if path.is_relative_to(downloaded):
        return f"Remove {downloaded} and run this again: it is then downloaded anew."
    return f"Get the whole bundle again from {BUNDLE_URL}, or give the place of a complete one."


def core_bundle(path: Path | str | None = None, url: str = BUNDLE_URL) -> Path:
    """The folder of CORE's tasks: `path`, or the downloaded one, which is fetched if it is not there yet.

    What was downloaded is checked before it takes its place: checksums of the archive, every task with its examples.
    Safe in parallel runs.

    Raises:
        UserError: `path` holds no bundle.
        MachineError: no connection, or what came is no complete bundle.
    """
    if path is not None:
        load_core_tasks(Path(path))
        return Path(path)
    folder = data_root() / FOLDER
    if folder.exists():
        return folder
    folder.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(folder.with_suffix(".lock")):
        if not folder.exists():
            _download(url, folder)
    return folder


def _download(url: str, folder: Path) -> None:
    by_hand = f"Download it elsewhere and unpack it as {folder}, or give the place of an unpacked one."
    with tempfile.TemporaryDirectory(dir=folder.parent, prefix=f".{FOLDER}.") as temporary:
        archive = Path(temporary) / "bundle.zip"
        try:
            with urllib.request.urlopen(url, timeout=30) as response, archive.open("wb") as file:
                shutil.copyfileobj(response, file)
            with zipfile.ZipFile(archive) as opened:
                opened.extractall(temporary)  # checks every file's checksum
            for task in load_core_tasks(Path(temporary) / FOLDER):
                task.examples()
        except (zipfile.BadZipFile, UserError) as error:
            raise MachineError(f"{url} gave no complete bundle of CORE's tasks: {error} {by_hand}") from error
        except (urllib.error.URLError, OSError, ValueError) as error:
            if is_disk_error(error):
                raise MachineError(f"Could not write CORE's tasks to {folder}: {error}. Free some space.") from error
            reason = getattr(error, "reason", error)
            raise MachineError(f"Could not download CORE's tasks from {url}: {reason}. {by_hand}") from error
        (Path(temporary) / FOLDER).replace(folder)
