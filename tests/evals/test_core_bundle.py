"""CORE's tasks from a folder: prompts letter by letter, the order of examples, what is said where something lacks."""

import json
import random
import zipfile

import pytest

from nanochat_pl.core.errors import MachineError, UserError
from nanochat_pl.core.paths import data_root
from nanochat_pl.evals.core_bundle import CoreTask, core_bundle, load_core_tasks
from nanochat_pl.evals.core_prompts import build_questions, fewshot_indices, render
from nanochat_pl.tokenizers.byte import ByteTokenizer

CHOICE = {"query": "Sky?", "choices": ["green", "blue"], "gold": 1}
OTHER = {"query": "Sun?", "choices": ["hot", "cold"], "gold": 0}
SCHEMA = {"context_options": ["The cat", "The dog"], "continuation": "barks", "gold": 1}
TEXT = {"context": "One, two, ", "continuation": "three"}


def task_in(folder, kind="multiple_choice", num_fewshot=1, examples=(CHOICE, OTHER), delimiter=" = ") -> CoreTask:
    (folder / "eval_data/a").mkdir(parents=True, exist_ok=True)
    (folder / "eval_data/a/t.jsonl").write_text("".join(json.dumps(example) + "\n" for example in examples))
    entry = {
        "label": "t",
        "dataset_uri": "a/t.jsonl",
        "num_fewshot": [num_fewshot],
        "icl_task_type": kind,
        "continuation_delimiter": delimiter,
    }
    (folder / "core.yaml").write_text(json.dumps({"icl_tasks": [entry]}))  # YAML too
    (folder / "eval_meta_data.csv").write_text("Eval Task,Random baseline\nt,50.0\n")
    (task,) = load_core_tasks(folder)
    return task


def test_prompts_letter_by_letter(tmp_path):
    assert render(task_in(tmp_path), CHOICE, [OTHER, OTHER]) == [
        "Sun? = hot\n\nSun? = hot\n\nSky? = green",
        "Sun? = hot\n\nSun? = hot\n\nSky? = blue",
    ]
    assert render(task_in(tmp_path, "schema"), SCHEMA, [SCHEMA]) == [
        "The dog = barks\n\nThe cat = barks",
        "The dog = barks\n\nThe dog = barks",
    ]
    text = task_in(tmp_path, "language_modeling", delimiter=" ")
    assert render(text, TEXT, [TEXT]) == [
        "One, two, three\n\nOne, two,",
        "One, two, three\n\nOne, two, three",
    ]


def test_what_is_scored(tmp_path):
    def scored(task, example):
        (question,) = build_questions(task, [example], [0], ByteTokenizer())
        pairs = zip(question.rows, question.spans)
        return [bytes(row[start:end].tolist()).decode() for row, (start, end) in pairs]

    assert scored(task_in(tmp_path, num_fewshot=0), CHOICE) == ["green", "blue"]
    assert scored(task_in(tmp_path, "schema", 0), SCHEMA) == [" = barks"] * 2
    assert scored(task_in(tmp_path, "language_modeling", 0, delimiter=" "), TEXT) == [" three"]


def test_few_shot_examples_are_drawn_as_in_nanochat():
    for index in (0, 3, 39):
        others = [i for i in range(40) if i != index]
        assert fewshot_indices(index, 40, 10) == random.Random(1234 + index).sample(others, 10)


def test_examples_come_shuffled_the_same_way_every_time(tmp_path):
    examples = [CHOICE | {"query": str(i)} for i in range(30)]
    task = task_in(tmp_path, examples=examples)
    expected = list(examples)
    random.Random(1337).shuffle(expected)
    assert task.examples() == expected and task.examples(7) == expected[:7] and expected != examples
    assert task.baseline == 0.5


def test_the_real_bundle_has_all_three_kinds(test_data):
    tasks = load_core_tasks(core_bundle(test_data / "eval_bundle"))
    assert {task.kind for task in tasks} == {"multiple_choice", "schema", "language_modeling"}
    assert all(task.examples(11) and 0 <= task.baseline < 1 for task in tasks)


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("{", "line 3"),
        ("[1]", "not a JSON object"),
        ('{"query": "a", "gold": 0}', "'choices'"),
        ('{"query": "a", "choices": ["b"], "gold": 1}', "'gold' is 1"),
        ('{"query": "a", "choices": ["b", 3], "gold": 0}', "an option is not a text"),
    ],
)
def test_a_line_that_is_no_example(tmp_path, line, said):
    task = task_in(tmp_path)
    with task.path.open("a") as file:
        file.write(line + "\n")
    with pytest.raises(UserError, match=said) as caught:
        task.examples()
    assert "line 3" in str(caught.value) and str(task.path) in str(caught.value)


def test_too_few_examples_for_the_few_shot_prompts(tmp_path):
    with pytest.raises(UserError, match="at least 2; there are 1"):
        task_in(tmp_path).examples(1)


def test_what_is_no_bundle(tmp_path):
    with pytest.raises(UserError, match=r"holds no CORE tasks.*eval_bundle\.zip"):
        core_bundle(tmp_path)
    with pytest.raises(UserError, match="of kind 'poetry'"):
        task_in(tmp_path, "poetry")
    task = task_in(tmp_path)
    task.path.unlink()
    with pytest.raises(UserError, match=r"incomplete: .*t\.jsonl is missing"):
        core_bundle(tmp_path)
    (tmp_path / "eval_meta_data.csv").write_text("Eval Task,Random baseline\n")
    with pytest.raises(UserError, match="not in the layout"):
        core_bundle(tmp_path)


def archive_of(folder):
    path = folder.parent / "bundle.zip"
    with zipfile.ZipFile(path, "w") as archive:
        for file in sorted(folder.rglob("*.*")):
            archive.write(file, "eval_bundle" / file.relative_to(folder))
    return path


def test_the_bundle_is_fetched_once(tmp_path):
    task_in(tmp_path / "made")
    archive = archive_of(tmp_path / "made")
    folder = core_bundle(url=archive.as_uri())
    assert folder == data_root() / "eval_bundle"
    archive.unlink()
    (task,) = load_core_tasks(core_bundle(url=archive.as_uri()))
    assert len(task.examples()) == 2


def test_a_downloaded_bundle_that_is_damaged_is_to_be_removed(tmp_path):
    task_in(data_root() / "eval_bundle").path.unlink()
    with pytest.raises(UserError, match=r"t\.jsonl is missing\. Remove .*eval_bundle and run this again"):
        load_core_tasks(core_bundle())


def test_what_came_is_no_bundle_or_nothing_came(tmp_path):
    task = task_in(tmp_path / "made")
    task.path.write_text("{}\n")
    damaged = archive_of(tmp_path / "made")
    page = tmp_path / "page.html"
    page.write_text("<html>")
    for path, said in ((damaged, "line 1"), (page, "gave no complete bundle"), (tmp_path / "none.zip", "Could not")):
        with pytest.raises(MachineError, match=said) as caught:
            core_bundle(url=path.as_uri())
        assert str(data_root() / "eval_bundle") in str(caught.value)
    left = [path.name for path in data_root().iterdir() if not path.name.endswith(".lock")]
    assert left == []
