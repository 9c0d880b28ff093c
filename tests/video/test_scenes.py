"""What the videos show is what the run has: each figure beside another way to get it."""

import csv
import dataclasses
import json
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest
import torch

from nanochat_pl.checkpoint.header import ModelHeader, read_header
from nanochat_pl.checkpoint.model_folder import LoadedModel
from nanochat_pl.checkpoint.named_model import find_named_model
from nanochat_pl.config.resume import load_config
from nanochat_pl.config.specs import Specs
from nanochat_pl.core.errors import UserError
from nanochat_pl.core.findings import Finding, announce
from nanochat_pl.core.run_folder import RunFolder
from nanochat_pl.data.stream import Dealer
from nanochat_pl.models.contract import build_config, build_model
from nanochat_pl.models.cost import ModelCost
from nanochat_pl.models.execution import Execution
from nanochat_pl.models.gpt2 import GPT2, GPT2Config
from nanochat_pl.nn.attention.blocked import Blocked
from nanochat_pl.reporting.records import load_run
from nanochat_pl.reporting.sweep_records import load_sweep
from nanochat_pl.tokenizers.bpe import train_bpe
from nanochat_pl.tokenizers.byte import ByteTokenizer
from nanochat_pl.video.architecture import architecture_scene
from nanochat_pl.video.attention import PROMPT, attention_scene, attention_weights, own_prompt, telling_heads, watch
from nanochat_pl.video.loss import loss_scene
from nanochat_pl.video.pipeline import merge, pack_rows, pipeline_scene
from nanochat_pl.video.scaling import scaling_scene
from nanochat_pl.video.scene import as_text, read_scene, write_scene
from tests.reporting.written_runs import write_stage
from tests.reporting.written_sweeps import EXPONENT, FLOOR, write_sweep

TEXT = "Alice and Tom found a red box. The"


@pytest.mark.parametrize(("window", "slopes"), [(2, None), (5, torch.tensor([0.5, 0.25, 0.1, 0.01])), (40, None)])
def test_attention_weights_are_what_a_backend_gives_to_each_token(window: int, slopes: torch.Tensor | None) -> None:
    """With one-hot values a backend's answer is its weights."""
    q, k = torch.randn(1, 4, 19, 8), torch.randn(1, 2, 19, 8)
    one_hot = torch.eye(19).expand(1, 2, 19, 19)
    wide_q, wide_k = (torch.cat((x, torch.zeros(*x.shape[:3], 11)), -1) for x in (q, k))  # as wide as the values
    given = Blocked(slopes)(wide_q, wide_k, one_hot, window, 0.3)
    torch.testing.assert_close(attention_weights(q, k, window, 0.3, slopes), given)


@pytest.fixture
def loaded(small_run: Path) -> LoadedModel:
    """The base model, its first two layers with a window of 3 tokens."""
    model = find_named_model("test/base").load()
    config = dataclasses.replace(model.model.config, window_pattern="S", short_window=3)
    windowed = build_model(config, "cpu", seed=None)
    windowed.load_state_dict(model.model.state_dict())
    return dataclasses.replace(model, model=windowed.eval())


def test_watching_changes_nothing_and_sees_every_layer(loaded: LoadedModel) -> None:
    ids = [loaded.tokenizer.bos_id, *loaded.tokenizer.encode(TEXT)]
    backend = loaded.model.attention
    watching, logits = watch(loaded.model, ids)
    with torch.inference_mode():
        expected = loaded.model.forward(torch.tensor([ids]))[0, -1]
    torch.testing.assert_close(logits, expected)
    assert watching.windows == [3, 3, 31] and len(watching.weights) == 3
    assert all(module.backend is backend for module in loaded.model.modules() if hasattr(module, "backend"))


def test_the_scene_of_attention(loaded: LoadedModel) -> None:
    scene = attention_scene(loaded, "test/base", TEXT)
    assert "".join(scene["tokens"]) == "<|bos|>" + TEXT
    for layer in scene["layers"]:
        for head in layer["heads"]:
            for i, row in enumerate(head):
                assert len(row) == i + 1 and sum(row) == pytest.approx(1, abs=0.002)
                assert not any(row[: max(0, i - layer["window"])])
    assert scene["next"][0]["probability"] >= scene["next"][1]["probability"] > 0
    assert as_text(scene) == as_text(attention_scene(loaded, "test/base", TEXT))


def test_a_chat_model_reads_the_prompt_as_a_question(loaded: LoadedModel) -> None:
    scene = attention_scene(dataclasses.replace(loaded, stage="sft"), "test/sft", "Who are you?")
    assert scene["tokens"][1] == "<|user_start|>" and scene["tokens"][-1] == "<|assistant_start|>"


def test_who_gives_no_prompt_gets_one_that_fits(loaded: LoadedModel) -> None:
    bytewise = own_prompt(dataclasses.replace(loaded, tokenizer=ByteTokenizer()))
    assert PROMPT.startswith(own_prompt(loaded)) and len(bytewise) < 32 < len(PROMPT)
    assert PROMPT[: len(bytewise) + 1] == bytewise + " "


@pytest.mark.parametrize(("prompt", "said"), [("x" * 200, "context has only 32"), (" ", "empty")])
def test_prompts_that_cannot_be_shown(small_run: Path, prompt: str, said: str) -> None:
    with pytest.raises(UserError, match=said):
        attention_scene(find_named_model("test/base").load(), "test", prompt)


def test_the_heads_that_do_most_are_found() -> None:
    T = 12
    first, previous, itself = torch.zeros(T, T), torch.eye(T).roll(-1, 1), torch.eye(T)
    first[:, 0] = 1
    previous[0], previous[-1] = itself[0], torch.eye(T)[T - 2]
    for i in range(1, T):
        previous[i] = itself[i - 1]
    even = torch.ones(T, T).tril()
    even /= even.sum(-1, keepdim=True)
    found = telling_heads([torch.stack((first, previous)), torch.stack((itself, even))])
    assert [(one["does"], one["layer"], one["head"]) for one in found[:3]] == [
        ("previous", 0, 1),
        ("sink", 0, 0),
        ("self", 1, 0),
    ]
    assert all(one["share"] == 1 for one in found[:3]) and found[3]["layer"] == 1 and found[3]["head"] == 1


def test_parameters_are_counted_once(small_run: Path) -> None:
    header = read_header(small_run / "base" / "model")
    header = dataclasses.replace(header, config=header.config | {"window_pattern": "SL", "short_window": 3})
    scene = architecture_scene(header, "test")
    cost = ModelCost(build_config(header.architecture, header.config))
    layers = sum(layer[part] for layer in scene["layers"] for part in ("attention", "mlp", "value_embedding"))
    assert layers + sum(scene["outside"].values()) == scene["parameters"] == cost.parameters
    assert sum(layer["attention"] + layer["mlp"] for layer in scene["layers"]) == cost.parameters_by_role["matrix"]
    assert scene["outside"]["head"] == cost.parameters_by_role["unembedding"]
    assert [layer["window"] for layer in scene["layers"]] == [3, 31, 31]
    assert [layer["value_embedding"] > 0 for layer in scene["layers"]] == [True, False, True]


def test_a_shared_table_learned_positions_and_padding_are_told_apart(small_run: Path) -> None:
    header = read_header(small_run / "base" / "model")
    sizes = {"vocab_size": 65, "sequence_len": 32, "n_layer": 2, "n_embd": 16, "n_head": 2, "n_kv_head": 2}
    scene = architecture_scene(dataclasses.replace(header, architecture="gpt2", config=sizes), "test")
    assert scene["outside"] | {"scalars": 0} == {"embedding": 128 * 16, "head": 0, "positions": 32 * 16, "scalars": 0}
    assert scene["table_rows"] == 128 and scene["vocabulary"] == 65 and scene["mlp_width"] == 64
    layers = sum(layer["attention"] + layer["mlp"] for layer in scene["layers"])
    assert layers + sum(scene["outside"].values()) == scene["parameters"]
    narrow = sizes | {"intermediate_size": 8}
    assert architecture_scene(dataclasses.replace(header, architecture="llama", config=narrow), "")["mlp_width"] == 8


class Unnamed(GPT2):
    """Its MLPs stand under another name."""

    def __init__(self, config: GPT2Config, execution: Execution):
        super().__init__(config, execution)
        for block in self.blocks:
            block.feed_forward = block._modules.pop("mlp")


@dataclasses.dataclass(frozen=True)
class UnnamedConfig(GPT2Config):
    network: ClassVar[Any] = Unnamed


def test_a_model_without_parts_by_their_names_is_refused() -> None:
    sizes = {"vocab_size": 65, "sequence_len": 32, "n_layer": 2, "n_embd": 16, "n_head": 2, "n_kv_head": 2}
    with pytest.raises(UserError, match="no part `mlp`"):
        architecture_scene(ModelHeader(f"{__name__}.UnnamedConfig", sizes, "base"), "test")


def test_the_curve_is_that_of_metrics_csv(small_run: Path) -> None:
    scene = loss_scene(load_run("test"))
    with (small_run / "base" / "metrics.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    expected = [(int(row["step"]), float(row["train/loss"])) for row in rows if row["train/loss"]]
    [base] = scene["stages"]
    assert len(expected) == 24 and np.allclose(base["loss"], expected, rtol=1e-4)
    assert base["bpb"][-1][1] == pytest.approx(
        json.loads((small_run / "base/summary.json").read_text())["val_bpb"], 1e-4
    )
    assert base["stage"] == "base" and base["tokens_per_step"] == 256
    assert scene["vocabulary"] == 512


def test_findings_stand_in_the_scene_and_rl_has_no_loss() -> None:
    run = write_stage("one", "rl", curves=True)
    announce(run, Finding("spike", 7, "It jumped.", "Wait."))
    [stage] = (scene := loss_scene(load_run("one")))["stages"]
    assert scene["vocabulary"] is None  # it was never as unsure as an untrained model
    assert stage["findings"] == [{"step": 7, "kind": "spike", "message": "It jumped.", "severity": "warning"}]
    assert not stage["loss"]
    with pytest.raises(UserError, match="no metrics"):
        write_stage("two", "base").metrics.unlink(missing_ok=True)
        loss_scene(load_run("two"))


def test_the_law_of_a_sweep() -> None:
    scene = scaling_scene(load_sweep(write_sweep([{"depth": depth} for depth in (2, 4, 6)])))
    assert scene["law"]["floor"] == pytest.approx(FLOOR, abs=0.05)
    assert scene["law"]["exponent"] == pytest.approx(EXPONENT, abs=0.05)
    sizes = [job["scaling_parameters"] for job in scene["jobs"]]
    assert sizes == sorted(sizes) and len(sizes) == 3


def test_rows_are_those_that_the_training_reads(small_run: Path) -> None:
    specs = Specs.of(load_config(RunFolder(small_run / "base")))
    tokenizer = find_named_model("test/base").load().tokenizer
    module = specs.data.build(tokenizer, sequence_len=32, rows_per_step=8, micro_batch_rows=8, seed=specs.seed)
    dealer = Dealer(specs.data.build_sources()[0], specs.data.streams, specs.seed)
    with ThreadPoolExecutor(1) as pool:
        rows = list(pack_rows(dealer, tokenizer, 32, 8 * 20, specs.data.buffer_documents, pool))
    batches = iter(module.train_dataloader())
    for step in range(20):
        batch = next(batches)
        own = np.stack([row for row, _ in rows[step * 8 : step * 8 + 8]])
        assert np.array_equal(batch.inputs.numpy(), own[:, :-1]) and np.array_equal(batch.targets.numpy(), own[:, 1:])
    cropped = 0
    for _, choices in rows:
        assert sum(choice["placed"] for choice in choices) == 33
        for choice in choices:
            if choice["room"] > 1:
                fitting = [length for length in choice["waiting"] if length <= choice["room"]]
                cropped += not fitting
                assert choice["length"] == (max(fitting) if fitting else min(choice["waiting"]))
    assert cropped > 0


def test_the_scene_of_the_pipeline(small_run: Path) -> None:
    specs = Specs.of(load_config(RunFolder(small_run / "base")))
    tokenizer = find_named_model("test/base").load().tokenizer
    sizes = {"sequence_len": 32, "rows_per_step": 8, "steps": 24}
    scene = pipeline_scene(specs.data, tokenizer, name="test", **sizes, seed=specs.seed)
    assert scene["step"] == 24 and len(scene["rows"]) == 8
    assert tokenizer.decode([token["id"] for token in scene["tokens"]]) == scene["text"]
    assert [len(parts) for parts in scene["merges"]] == list(range(len(scene["merges"]), 0, -1))
    assert max(len(row) for row in scene["rows"]) == len(scene["choices"])


def test_merges_end_where_the_tokenizer_does() -> None:
    tokenizer = train_bpe(["the cat sat on the mat that the fat cat had sat on"] * 9, 280)
    for word in (" the", " cat", " that", " zebra"):
        last = merge(tokenizer.ranks, word.encode())[-1]
        assert [tokenizer.ranks[part] for part in last] == tokenizer.encode(word)


def test_a_file_is_read_back_or_refused(tmp_path: Path) -> None:
    path = tmp_path / "loss.json"
    scene = {"format": "nanochat_pl.video", "version": 2, "kind": "loss", "name": "x"}
    write_scene(scene, path)
    assert read_scene(path, "loss") == scene
    for change, said in (({"version": 1}, "version 1"), ({"kind": "scaling"}, "scaling"), ({"format": "x"}, "no")):
        write_scene(scene | change, path)
        with pytest.raises(UserError, match=said):
            read_scene(path, "loss")
    path.write_text("{")
    with pytest.raises(UserError, match="cannot be read"):
        read_scene(path, "loss")
