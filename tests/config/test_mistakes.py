"""A user's mistakes on the command line of train.py: one paragraph, exit code 2, nothing written."""

import sys
from pathlib import Path

import pytest

import train

MISTAKES = [
    (["trainer.device=4"], "There is no option 'trainer.device'; did you mean 'hw.device"),
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
    (["schedule.momentum_end=null"], "Either all of schedule.momentum_start, momentum_peak, momentum_end are set"),
    (["schedule=range", "schedule.lowest=2000"], "schedule.lowest is 2000 and schedule.highest 1000"),
    (["optim._target_=torch.optim.AdmW"], "no 'AdmW' in torch.optim; did you mean 'torch.optim.AdamW'?"),
    (
        ["optim._target_=nanochat_pl.optm.muon.MuonAdamWSpec"],
        "'optm' in nanochat_pl; did you mean 'nanochat_pl.optim'?",
    ),
    (["+callbacks.mine.x=1"], "callbacks.mine._target_ is ''"),
    (["optim=adamw", "+optim.beta1=0.9"], "There is no option optim.beta1; did you mean 'betas'?"),
    (["optim=adamw", "optim.betas=0.9"], "optim.betas is 0.9, but it must be"),
    (
        ["optim=adamw", "optim.lr=-1"],
        "torch.optim.AdamW cannot train with the options of optim: Invalid learning rate: -1",
    ),
    (["optim=adamw", "optim.grad_clip=0"], "optim.grad_clip is 0.0"),
    (["optim=torch", "optim._target_=torch.optim.LBFGS"], "LBFGS doesn't support per-parameter options"),
    (["optim=torch", "optim._target_=torch.nn.Linear"], "There is no option optim.lr. Legal: in_features"),
    (["optim=torch_muon", "optim.others._target_=torch.nn.Linear"], "optim.others._target_ is no class of optimizers"),
    (["optim=adamw", "streaming.enabled=true"], "which only MuonAdamW can use. Choose optim=muon_adamw"),
    (["schedule.weight_decay=linear"], "legal values: 'cosine', 'constant'."),
    (["seed=-1"], "seed is -1"),
    (["model.n_embd=100"], "96 or 128"),
    (["model.n_head=3"], "model.n_head=3"),
    (["model.n_kv_head=3"], "legal values: 1, 2, 4."),
    (["model.window_pattern=XL"], "model.window_pattern"),
    (["model.position=alibbi"], "legal values: 'rope', 'alibi', 'none'."),
    (
        ["model.position=alibi", "hw=cpu", "hw.attention=sdpa"],
        "hw.attention=sdpa does not compute model.position=alibi",
    ),
    (["horizon.total_batch_tokens=1000"], "Nearest legal values: 896 or 1024."),
    (["horizon.steps=0"], "horizon.steps is 0"),
    (["horizon.steps=9", "horizon.flops=1e15"], "horizon.steps and horizon.flops are both set"),
    (["horizon.epochs=2"], "horizon.epochs counts passes over conversations or questions"),
    (["hw=cpu", "hw.devices=0"], "hw.devices is 0"),
    (["callbacks.checkpoints.keep_last=0"], "callbacks.checkpoints.keep_last is 0"),
    (["trainer.validate_every_n_steps=0"], "trainer.validate_every_n_steps is 0"),
    (["model={"], "The command line could not be understood"),
    (["tokenizer.vocab_size=100"], "265"),
    (["data=text"], "data.files"),
    (["data=text", "data.files=nowhere/*.txt"], "nowhere"),
    (["stage=sft", "model.depth=3"], "Train one with `python train.py model.depth=3`, or name another"),
    (["stage.dropout=0.1"], "stage.dropout=0.1 changes the model that stage.init_from names, and none is named"),
    (["stage.sequence_len=64"], "give model.sequence_len instead"),
    (["stage=rl", "stage.init_from=nowhere"], "There is no model in"),
    (["stage=sft", "data=tiny"], "stage=sft trains on conversations, but the data of this command hold text"),
    (["data=chats"], "stage=base trains on text, but the data of this command hold conversations"),
    (["stage=sft", "tasks.train=[{name: tiny_fact}]"], "There is no task 'tiny_fact'; did you mean 'tiny_facts'?"),
    (["stage=mid", "tasks=custom"], "path=FILE"),
    (["stage=sft", "tasks=custom", "tasks.path=nowhere.jsonl"], "nowhere.jsonl"),
    (["stage=rl", "task=tiny_maths"], "did you mean 'tiny_math'?"),
    (["stage=rl", "data.samples_per_prompt=1"], "data.samples_per_prompt is 1"),
    (["stage=rl", "stage.temperature=0"], "stage.temperature is 0"),
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
