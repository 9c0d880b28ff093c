"""Conversations from files: what is read, and the words for what cannot be."""

import json
from collections.abc import Iterable
from pathlib import Path

import pytest

from nanochat_pl.core.errors import UserError
from nanochat_pl.tasks.custom import Custom
from nanochat_pl.tasks.identity import Identity
from nanochat_pl.tasks.specs import TaskSpec
from nanochat_pl.tasks.task import question_and_answer

TALK = [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Hello!"}]
TOOL = [
    {"role": "system", "content": "Be short."},
    {"role": "user", "content": "1+1?"},
    {"role": "assistant", "content": [{"type": "python", "text": "1+1"}, {"type": "text", "text": "2"}]},
]


def write(path: Path, answers: Iterable[str]) -> None:
    """A conversation for each of the answers."""
    path.write_text("".join(json.dumps(question_and_answer("And?", answer)) + "\n" for answer in answers))


def test_lines_and_lists(tmp_path: Path) -> None:
    lines = tmp_path / "chats.jsonl"
    lines.write_text(f"\ufeff{json.dumps(TALK)}\n\n{json.dumps({'messages': TOOL, 'id': 7})}\r\n", encoding="utf-8")
    listed = tmp_path / "chats.json"
    listed.write_text(json.dumps([TALK, {"messages": TOOL}], indent=1))
    for path in (lines, listed):
        task = Custom("all", path=str(path))
        assert [task.conversation(i) for i in range(len(task))] == [TALK, TOOL]
        assert task.prompt(1) == TOOL[:2]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("", "c.jsonl is empty: there is not one conversation"),
        ("\n \n", "c.jsonl is empty"),
        (f"{json.dumps(TALK)}\n{{oops\n", "c.jsonl, line 2, column 2: this is not JSON (Expecting property name"),
        (f'{json.dumps(TALK)}\n\n{{"text": 1}}', "c.jsonl, line 3: this object has no messages (its keys: text)"),
        ("3", "c.jsonl, line 1: this is a number. A conversation is {"),
        ("[]", "c.jsonl, line 1: The conversation has no messages"),
        (json.dumps(TALK[1:]), "c.jsonl, line 1: Message 1 of the conversation is by the assistant"),
        (json.dumps(TALK[:1]), "c.jsonl, line 1: the last message is by the user"),
        (json.dumps([{"role": "usr", "content": ""}]), "line 1: Message 1 of the conversation has the role 'usr'; did"),
        ("[" * 100_000, "c.jsonl, line 1"),
    ],
)
def test_what_is_wrong_and_where(content: str, message: str, tmp_path: Path) -> None:
    path = tmp_path / "c.jsonl"
    path.write_text(content)
    with pytest.raises(UserError) as caught:
        Custom(path=str(path))
    assert message in str(caught.value)
    assert str(path) in str(caught.value)


def test_what_is_wrong_in_a_list(tmp_path: Path) -> None:
    path = tmp_path / "c.json"
    path.write_text(json.dumps([TALK, TALK[:1]]))
    with pytest.raises(UserError, match="conversation 2: the last message is by the user"):
        Custom(path=str(path))
    path.write_text(json.dumps({"messages": TALK}))
    with pytest.raises(UserError, match=r"holds an object, but a \.json file must hold a list"):
        Custom(path=str(path))
    path.write_text('[\n[],\n{"a": }\n]')
    with pytest.raises(UserError, match="line 3, column 7: this is not JSON"):
        Custom(path=str(path))
    path.write_text("")
    with pytest.raises(UserError, match="is empty"):
        Custom(path=str(path))


def test_files_that_cannot_be_read(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="There is no file"):
        Custom(path=str(tmp_path / "none.jsonl"))
    with pytest.raises(UserError, match="is a folder"):
        Custom(path=str(tmp_path))
    latin = tmp_path / "latin.jsonl"
    latin.write_bytes(b"\n\n\xe4")
    with pytest.raises(UserError, match=r"latin.jsonl, line 3: this is not UTF-8"):
        Custom(path=str(latin))


def test_no_right_answers_and_no_second_split(tmp_path: Path) -> None:
    path = tmp_path / "c.jsonl"
    path.write_text(json.dumps(TALK))
    task = Custom("all", path=str(path))
    for attempt in (task.check_scored, lambda: task.reward(0, "Hello!"), task[:1].check_scored):
        with pytest.raises(UserError, match="custom have no right answers"):
            attempt()
    with pytest.raises(UserError, match=r"custom has no split 'test'.* It has: train, val, all"):
        Custom("test", path=str(path))
    with pytest.raises(UserError, match="identity has no split 'val'"):
        Identity("val")


def test_a_share_is_held_out_unless_another_file_is_named(tmp_path: Path) -> None:
    def conversations(split: str, **paths: Path) -> list[str]:
        task = TaskSpec("custom", split, **{key: str(path) for key, path in paths.items()}).build()
        return [task.conversation(i)[-1]["content"] for i in range(len(task))]

    path, other = tmp_path / "c.jsonl", tmp_path / "other.jsonl"
    for count in (2, 3, 400):
        write(path, map(str, range(count)))
        train, val = conversations("train", path=path), conversations("val", path=path)
        assert train and val and sorted(train + val) == sorted(conversations("all", path=path))
    assert 10 <= len(val) <= 30
    write(path, [*map(str, reversed(range(400))), *val])
    assert set(conversations("val", path=path)) == set(val), "what is held out stays so, and copies of it are too"
    write(other, ["another"])
    assert conversations("val", path=path, val_path=other) == ["another"]
    assert conversations("train", path=path, val_path=other) == conversations("all", path=path)
    for split in ("train", "val"):
        write(path, ["a", "a"])
        with pytest.raises(UserError, match=r"c.jsonl holds only one conversation .*tasks.val_path=FILE"):
            conversations(split, path=path)


@pytest.mark.parametrize("name", ["custom", "identity", "spelling_bee"])
def test_the_fingerprint_is_that_of_all_of_the_file(name: str, tmp_path: Path) -> None:
    def fingerprint(edited: int | None, folder: str = "one") -> str:
        lines = [f"word{chr(97 + n % 26)}{chr(97 + n // 26)}" for n in range(300)]
        if edited is not None:
            lines[edited] = "words" + lines[edited][5:]
        path = tmp_path / folder / "file.jsonl"
        path.parent.mkdir(exist_ok=True)
        if name == "custom":
            write(path, lines)
        elif name == "identity":
            path.write_text("entries:\n" + "".join(f"  - {{ask: Who is {w}, answer: Me}}\n" for w in lines))
        else:
            path.write_text("\n".join(lines))
        return TaskSpec(name, "all" if name == "custom" else "train", path=str(path)).build().fingerprint

    assert fingerprint(None) == fingerprint(None, "two")
    assert len({fingerprint(edited) for edited in (None, *range(0, 300, 23))}) == 15


def test_identity_says_who_the_model_is(tmp_path: Path) -> None:
    task = Identity()
    answers = {task.prompt(i)[0]["content"]: task.conversation(i)[-1]["content"] for i in range(len(task))}
    assert len(answers) == len(task) > 50
    assert "nanochat-pl" in answers["Who are you?"] and not any("{" in answer for answer in answers.values())

    own = tmp_path / "me.yaml"
    own.write_text("name: Zorb\nentries:\n  - ask: Who are you?\n    answer: I am {name}.\n")
    assert Identity(path=str(own)).conversation(0)[-1]["content"] == "I am Zorb."
    for content, message in (
        ("entries: [", "is no YAML"),
        ("name: Zorb", "must have a list of entries"),
        ("entries:\n  - ask: Hi\n", "me.yaml, entry 1: it needs ask"),
        ("entries:\n  - {ask: [Hi, 3], answer: Ho}\n", "entry 1: it needs ask"),
    ):
        own.write_text(content)
        with pytest.raises(UserError, match=message):
            Identity(path=str(own))
    with pytest.raises(UserError, match="cannot be read"):
        Identity(path=str(tmp_path / "none.yaml"))
