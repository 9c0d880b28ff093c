"""The hub's tasks on small real data laid out as there."""

import dataclasses
import shutil
from decimal import Decimal
from pathlib import Path

import pytest

from nanochat_pl.core.errors import MachineError, UserError
from nanochat_pl.tasks.gsm8k import final_number, solution_parts
from nanochat_pl.tasks.humaneval import program_of
from nanochat_pl.tasks.specs import TaskSpec
from nanochat_pl.tasks.task import ChoiceTask, Task
from nanochat_pl.tokenizers.byte import ByteTokenizer
from nanochat_pl.tokenizers.chat import render_conversation
from nanochat_pl.tools.sandbox import SandboxUnavailable
from tests.hub_client import hub_client
from tests.hub_server import HubServer


def load(name: str, split: str, test_data: Path) -> Task:
    return TaskSpec(name, split, path=str(test_data / "hub")).build()


@pytest.mark.parametrize(
    ("name", "split", "size"),
    [("arc_easy", "train", 400), ("arc_challenge", "test", 150), ("mmlu", "train", 500), ("mmlu", "val", 60)],
)
def test_choices(name: str, split: str, size: int, test_data: Path) -> None:
    task = load(name, split, test_data)
    assert isinstance(task, ChoiceTask) and task.kind == "choice" and task.name == name and len(task) == size
    for i in range(0, size, 17):
        letters, answer = task.letters(i), task.answer(i)
        assert answer in letters and 3 <= len(letters) <= 5
        question, said = task.conversation(i)
        assert said["content"] == answer and task.prompt(i) == [question]
        assert all(f"={letter}\n" in question["content"] for letter in letters)
        assert [task.evaluate(i, letter) for letter in letters].count(True) == 1
    assert len({task.prompt(i)[0]["content"] for i in range(20)}) == 20


def test_gsm8k(test_data: Path) -> None:
    task = load("gsm8k", "test", test_data)
    assert len(task) == 300
    calls = 0
    for i in range(100):
        answer = task.conversation(i)[-1]["content"]
        kinds = [part["type"] for part in answer]
        calls += kinds.count("python")
        assert kinds.count("python") == kinds.count("python_output") and kinds[-1] == "text"
        assert not any(mark in part["text"] for part in answer for mark in ("<<", ">>"))
        assert task.evaluate(i, answer) and task.reward(i, answer) == 1.0
        number = final_number(answer[-1]["text"])
        assert task.evaluate(i, f"It is\n#### {number}.") and not task.evaluate(i, f"#### {number}1")
        assert not task.evaluate(i, f"{number}")
        # A number that only the tool has put out is no answer.
        assert not task.evaluate(i, [{"type": "python_output", "text": f"#### {number}"}])
    assert calls > 200


def test_annotations_become_calls() -> None:
    parts = solution_parts("He has 2*3=<<2*3=6>>6, x <<5>>5<<>>.\n#### 1,006")
    assert [(part["type"], part["text"]) for part in parts] == [
        ("text", "He has 2*3="),
        ("python", "2*3"),
        ("python_output", "6"),
        ("text", "6, x "),
        ("python", "5"),
        ("text", "5"),
        ("text", ".\n#### 1,006"),
    ]
    assert final_number("#### 1,006.00\n#### 7") == Decimal(1006)
    assert final_number("#### -0.5") == Decimal("-0.5")
    assert final_number("#### ,.") is None and final_number("7") is None


def test_smoltalk(test_data: Path) -> None:
    task = load("smoltalk", "train", test_data)
    assert len(task) == 900
    rendered = [render_conversation(ByteTokenizer(), task.conversation(i)) for i in range(50)]
    assert all(any(each.mask) for each in rendered)
    with pytest.raises(UserError, match="smoltalk have no right answers"):
        task.check_scored()


def test_humaneval(test_data: Path) -> None:
    task = load("humaneval", "test", test_data)
    assert len(task) == 80
    try:
        task.check_scored()
    except SandboxUnavailable as error:
        pytest.skip(str(error))
    for i in range(3):
        prompt, answer = task.prompt(i)[0]["content"], task.conversation(i)[-1]["content"]
        assert task.evaluate(i, answer)
        assert task.evaluate(i, f"Here it is:\n```python\n{answer}\n```\nIt works.")
        assert task.evaluate(i, answer[len(prompt) :]), "the function's body alone"
        assert not task.evaluate(i, prompt + "    return None\n")
        assert not task.evaluate(i, answer + "\nraise SystemExit(0)\n"), "ending early is no way to pass"
        assert not task.evaluate(i, "no program")


def test_programs_of_answers() -> None:
    prompt = 'import math\n\ndef helped():\n    return 1\n\ndef asked(x):\n    """Twice."""\n'
    for answer in ("def asked(x):\n    return helped() + x", "```\ndef asked(x):\n    return helped() + x\n```"):
        names: dict = {}
        exec(program_of(answer, prompt, "asked"), names)
        assert names["asked"](2) == 3
    names = {}
    exec(program_of("    return math.pi\n", prompt, "asked"), names)
    assert names["asked"](0) > 3


def test_the_folder_may_be_the_data_sets_own(test_data: Path) -> None:
    inside = TaskSpec("gsm8k", path=str(test_data / "hub/openai/gsm8k")).build()
    around = load("gsm8k", "train", test_data)
    assert len(inside) == 2000 and inside.conversation(3) == around.conversation(3)


def test_the_fingerprint_is_that_of_the_rows(test_data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import pyarrow.parquet

    def fingerprint(folder: Path) -> str:
        monkeypatch.setenv("NANOCHAT_PL_CACHE", str(tmp_path / f"cache of {folder.name}"))
        return TaskSpec("arc_easy", path=str(folder)).build().fingerprint

    original = test_data / "hub/allenai/ai2_arc"
    copies = [Path(shutil.copytree(original, tmp_path / name)) for name in ("copy", "edited")]
    [file] = copies[1].glob("ARC-Easy/train*.parquet")
    table = pyarrow.parquet.read_table(file)
    questions = table["question"].to_pylist()
    questions[123] += "?"
    edited = table.set_column(table.column_names.index("question"), "question", [questions])
    pyarrow.parquet.write_table(edited, file)
    assert fingerprint(copies[0]) == fingerprint(original) != fingerprint(copies[1])
    assert load("arc_easy", "test", test_data).fingerprint != fingerprint(original)


def test_mistakes_with_folders(test_data: Path, tmp_path: Path) -> None:
    spec = TaskSpec("gsm8k", path=str(tmp_path / "none"))
    with pytest.raises(UserError, match=r"There is no folder .*none"):
        spec.build()
    with pytest.raises(UserError, match="cannot be read"):
        dataclasses.replace(spec, path=str(tmp_path)).build()
    with pytest.raises(UserError, match="BuilderConfig 'main' not found"):
        dataclasses.replace(spec, path=str(test_data / "hub/cais/mmlu")).build()
    with pytest.raises(UserError, match="gsm8k has no split 'val'"):
        load("gsm8k", "val", test_data)


@pytest.mark.slow
def test_the_hub(test_data: Path, tmp_path: Path) -> None:
    with HubServer(test_data / "hub") as hub, hub_client(hub, tmp_path):
        online = TaskSpec("humaneval", "test").build()
        assert online.conversation(5) == load("humaneval", "test", test_data).conversation(5)


def test_a_hub_that_cannot_be_reached(test_data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from huggingface_hub import constants

    with HubServer(test_data / "hub") as hub, hub_client(hub, tmp_path):
        monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)  # or the client would try again for half a minute
        with pytest.raises(MachineError, match="cannot be reached") as caught:
            TaskSpec("gsm8k").build()
    assert "hf download --repo-type dataset openai/gsm8k" in str(caught.value) and "path=FOLDER" in str(caught.value)
