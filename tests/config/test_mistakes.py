"""A user's mistakes on the command line of train.py: one paragraph, exit code 2, nothing written."""

import sys
from pathlib import Path

import pytest

import train

MISTAKES = [
    (["trainer.devices=4"], "There is no option 'trainer.devices'; did you mean 'hw.devices'?"),
    (["model.depht=3"], "did you mean 'model.depth'?"),
    (["+modle.depth=3"], "There is no section 'modle'; did you mean 'model'?"),
    (["+model.colour=3"], "There is no option model.colour"),
    (["data.qqq=1"], "Options there: "),
    (["hw=cup"], "hw has no option 'cup'; did you mean 'cpu'?"),
    (["+hw=cup"], "hw has no option 'cup'; did you mean 'cpu'?"),
    (["recipe=tinny"], "did you mean 'tiny'?"),
    (["model.depth=four"], "model.depth is 'four', but it must be a whole number."),
    (["model.smear=maybe"], "model.smear is 'maybe', but it must be true or false."),
    (["optim.embedding.lr=x"], "optim.embedding.lr is 'x', but it must be a number."),
    (["hw.accelerator=tpu"], "hw.accelerator is 'tpu'; legal values: 'cpu', 'cuda', 'mps'."),
    (["schedule.weight_decay=linear"], "legal values: 'cosine', 'constant'."),
    (["seed=-1"], "seed is -1"),
    (["model.n_embd=100"], "96 or 128"),
    (["model.n_head=3"], "model.n_head=3"),
    (["model.n_kv_head=3"], "legal values: 1, 2, 4."),
    (["model.window_pattern=XL"], "model.window_pattern"),
    (["horizon.total_batch_tokens=1000"], "Nearest legal values: 896 or 1024."),
    (["horizon.steps=0"], "horizon.steps is 0"),
    (["hw=cpu", "hw.devices=3"], "hw.devices is 3"),
    (["callbacks.checkpoints.keep_last=0"], "callbacks.checkpoints.keep_last is 0"),
    (["trainer.validate_every_n_steps=0"], "trainer.validate_every_n_steps is 0"),
    (["model={"], "The command line could not be understood"),
    (["tokenizer.vocab_size=100"], "265"),
    (["data=text"], "data.files"),
    (["data=text", "data.files=nowhere/*.txt"], "nowhere"),
]


@pytest.mark.parametrize(("arguments", "words"), MISTAKES, ids=lambda value: " ".join(value)[:40])
def test_a_mistake_is_one_paragraph(
    arguments: list[str], words: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture, tmp_path: Path
) -> None:
    monkeypatch.setattr(sys, "argv", ["train.py", *arguments])
    try:
        code = train.main()
    except SystemExit as error:
        code = error.code
    message = capsys.readouterr().err.strip()
    assert code == 2, message
    assert words in message
    assert "Traceback" not in message and "\n" not in message
    assert not list((tmp_path / "runs").rglob("config.yaml"))
