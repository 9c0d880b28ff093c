"""`data show`: what of a conversation is read, learned, and special."""

import json
from pathlib import Path

import pytest
from rich.console import Console
from typer.testing import CliRunner, Result

from nanochat_pl.checkpoint.model_folder import save_model_folder
from nanochat_pl.cli import app, data_show
from nanochat_pl.core.errors import UserError
from nanochat_pl.core.paths import runs_root
from nanochat_pl.models.contract import build_model
from nanochat_pl.models.depth import NanoChatSpec
from nanochat_pl.tokenizers.chat import render_conversation
from nanochat_pl.tokenizers.specs import BPESpec
from tests.taught import BYTE, CALL, conversation


@pytest.fixture(autouse=True)
def wide_console(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "200")


def show(*arguments: str) -> Result:
    return CliRunner().invoke(app, ["data", "show", *arguments])


def write_chats(path: Path, *chats: list[dict]) -> str:
    path.write_text("".join(json.dumps({"messages": chat}) + "\n" for chat in chats))
    return str(path)


def test_what_is_learned_stands_out(tmp_path: Path) -> None:
    path = write_chats(tmp_path / "chats.jsonl", conversation("What is 12*7?", CALL), conversation("a", "b\nc"))
    result = show(path)
    assert result.exit_code == 0, result.output
    expected = (
        "<|bos|>\n<|user_start|>What is 12*7?<|user_end|>\n"
        "<|assistant_start|>«It is <|python_start|>12*7<|python_end|>»"
        "<|output_start|>84<|output_end|>«84.<|assistant_end|>»\n"
    )
    assert expected in result.output
    first, second = (render_conversation(BYTE, chat) for chat in (
        conversation("What is 12*7?", CALL), conversation("a", "b\nc")))  # fmt: skip
    assert f"chats.jsonl 0 of 2: {len(first.ids)} tokens, {sum(first.mask)} learned" in result.output
    total, learned = len(first.ids) + len(second.ids), sum(first.mask) + sum(second.mask)
    assert f"2 conversations: {total} tokens, {learned} of them learned" in result.output
    assert "«b↵\nc<|assistant_end|>»" in result.output
    assert "there is no model yet" in result.output


def test_colours(tmp_path: Path) -> None:
    console = Console(force_terminal=True, color_system="standard", record=True, file=(tmp_path / "out").open("w"))
    rendered = render_conversation(BYTE, conversation("<|bos|>\x1b[2J", "ok"))
    data_show._print(console, data_show.pieces(BYTE, rendered))
    styled = console.export_text(styles=True)
    assert "\x1b[1;7;32m<|assistant_end|>" in styled, "special, and learned"
    assert styled.count("\x1b[2;7m<|bos|>") == 1, "text that spells a special token is text"
    assert "\x1b[2J" not in styled and "␛" in styled, "text cannot steer the terminal"
    assert "«" not in styled


def test_tokens_that_share_a_character_are_one_piece() -> None:
    tokenizer = BPESpec(vocab_size=274).build(["plain text " * 50])
    text = "é🎉plain x" + "\u00e9" * 3
    rendered = render_conversation(tokenizer, conversation(text, text))
    pieces = data_show.pieces(tokenizer, rendered)
    ordinary = [piece for piece in pieces if not piece.special]
    assert "".join(piece.text for piece in ordinary) == 2 * text
    assert "".join(piece.text for piece in ordinary if piece.learned) == text
    assert {"é", "🎉"} <= {piece.text for piece in ordinary}


def test_the_tokenizer_and_the_context_of_a_model(tmp_path: Path) -> None:
    config = NanoChatSpec(depth=1, n_embd=16, head_dim=8, sequence_len=64).config(BYTE.vocab_size)
    model = build_model(config, "cpu", seed=0)
    save_model_folder(runs_root() / "small" / "sft" / "model", model, config, BYTE, {}, "sft")
    long = conversation("a", "b", "c" * 80, "d")
    path = write_chats(tmp_path / "chats.jsonl", long, conversation("e" * 80, "f"), conversation("g", "h"))
    for arguments in ((), ("--model", "small")):
        result = show(path, *arguments)
        assert result.exit_code == 0, result.output
        assert "training reads the first 7 and leaves out the last 2 message(s)" in result.output
        assert "even to its first answer: training leaves it out" in result.output
        assert "; 2 longer than the context of 64 tokens." in result.output
        assert "small/sft" in result.output


def test_tasks_by_name() -> None:
    one = show("tiny_sums", "-n", "2", "--start", "5", "--split", "test")
    assert one.exit_code == 0, one.output
    assert "tiny_sums 5 of" in one.output and "tiny_sums 6 of" in one.output and "tiny_sums 7 of" not in one.output
    assert "<|python_end|>»<|output_start|>" in one.output
    every = show()
    assert every.exit_code == 0 and "6 conversations" in every.output
    assert "tiny_math 0 of" in every.output and "identity 0 of" in every.output


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ('{"messages": [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]}\n{"a": 1}',
         "chats.jsonl, line 2: this object has no messages"),
        ('[{"role": "usr", "content": "a"}]', "line 1: .* did you mean 'user'"),
        ('\n{"messages": [', "line 2, column 15: this is not JSON"),
        ("", "is empty"),
    ],
)  # fmt: skip
def test_malformed_files(tmp_path: Path, content: str, message: str) -> None:
    path = tmp_path / "chats.jsonl"
    path.write_text(content)
    result = show(str(path))
    assert isinstance(result.exception, UserError) and not result.output
    with pytest.raises(UserError, match=message):
        raise result.exception


def test_mistakes(tmp_path: Path) -> None:
    path = write_chats(tmp_path / "chats.jsonl", conversation("a", "b"))
    for arguments, message in (
        (("tiny_sum",), "did you mean 'tiny_sums'"),
        (("nowhere.jsonl",), "There is no file nowhere.jsonl"),
        ((path, "--start", "1"), "has 1 conversations"),
        ((path, "--model", "nothing"), "no model in nothing"),
    ):
        error = show(*arguments).exception
        assert isinstance(error, UserError) and message in str(error), error
