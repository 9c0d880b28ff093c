"""The plan: how a step is cut into micro-batches, what it decides, and what it says."""

import dataclasses
from typing import Any

import pytest
import torch

from nanochat_pl.core.errors import UserError
from nanochat_pl.core.figures import size
from nanochat_pl.core.hardware import Hardware, HardwareSpec
from nanochat_pl.models.depth import NanoChatSpec
from nanochat_pl.models.execution import Execution
from nanochat_pl.nn.molegrad import Streaming
from nanochat_pl.optim.muon import MuonAdamWSpec
from nanochat_pl.optim.scaling import HorizonSpec
from nanochat_pl.planning.plan import Plan, make_plan
from nanochat_pl.planning.trial import step_fits

SPEC = NanoChatSpec(depth=2, n_embd=64, head_dim=16, sequence_len=32)
CPU = HardwareSpec(accelerator="cpu").detect()


def plan(total: int, tokens_per_device: int, hardware: Hardware = CPU, speed: float = 1e9, **horizon: float) -> Plan:
    hardware = dataclasses.replace(hardware, tokens_per_device=tokens_per_device)
    asked = HorizonSpec(total_batch_tokens=total, **horizon)
    return make_plan(SPEC.config(300), SPEC.reference(300), asked, hardware, 16, speed)


def with_memory(made: Plan, memory_bytes: int) -> Plan:
    chip = dataclasses.replace(made.hardware.chip, memory_bytes=memory_bytes)
    return dataclasses.replace(made, hardware=dataclasses.replace(made.hardware, chip=chip))


@pytest.mark.parametrize(
    ("total", "tokens_per_device", "micro", "accumulation"),
    [(768, 8192, 24, 1), (768, 256, 8, 3), (768, 200, 6, 4), (224, 96, 1, 7), (768, 1, 1, 24)],
)
def test_a_step_is_cut_into_the_largest_equal_pieces(
    total: int, tokens_per_device: int, micro: int, accumulation: int
) -> None:
    made = plan(total, tokens_per_device)
    assert (made.micro_batch_rows, made.accumulation) == (micro, accumulation)
    assert made.micro_batch_rows * made.accumulation * 32 == total


def test_the_horizon_follows_the_first_that_is_set() -> None:
    made = plan(768, 8192)
    assert made.horizon.steps == 12 * made.cost.scaling_parameters // 768
    assert plan(768, 8192, steps=7).horizon.steps == 7
    flops = made.cost.training_flops_per_token * 768 * 50
    assert plan(768, 8192, flops=flops).horizon.steps == 50


def test_the_screen_names_what_matters() -> None:
    text = plan(768, 256, steps=10).text()
    for words in ("2 layers, width 64, 4 heads", "10 steps x 768 tokens", "3 x 8 rows", "memory", "FLOPs, about"):
        assert words in text


def test_a_profile_for_another_machine_says_so() -> None:
    if not torch.cuda.is_available():
        with pytest.raises(UserError, match="hw asks for 1 x cuda, but this machine has no CUDA GPU"):
            HardwareSpec(accelerator="cuda").detect()


def test_the_model_is_compiled_where_that_pays_back_within_the_run() -> None:
    gpu = HardwareSpec(accelerator="cuda", chip="H100").assume()
    long, short = (plan(768, 768, gpu, speed=speed, steps=1000) for speed in (1e5, 1e12))
    assert long.seconds > 300 > short.seconds
    assert long.hardware.compile is True and short.hardware.compile is False
    assert plan(768, 768, speed=1e5, steps=1000).hardware.compile is False  # CPU
    for wanted in (True, False):
        asked = dataclasses.replace(gpu, compile=wanted)
        assert all(plan(768, 768, asked, speed, steps=9).hardware.compile is wanted for speed in (1e5, 1e12))


def test_what_was_decided_before_is_kept_on_the_same_kind_of_device() -> None:
    decided = {"accelerator": "cpu", "precision": "bfloat16", "compile": True}
    kept = HardwareSpec(accelerator="cpu").detect(decided)
    assert (kept.precision, kept.compile) == ("bfloat16", True)
    assert HardwareSpec(accelerator="cpu").detect(decided | {"accelerator": "cuda"}) == CPU
    asked = HardwareSpec(accelerator="cpu", precision="float32", compile=False).detect(decided)
    assert (asked.precision, asked.compile) == ("float32", False)
    assert CPU.tokens_per_device == 2048 and CPU.precision == "float32"


def test_a_model_larger_than_the_memory_is_refused_and_a_tight_one_advised() -> None:
    made = plan(768, 768, steps=10)
    made.check_memory()
    assert "may not fit" not in made.text()
    state = sum(made.memory_bytes[name] for name in ("weights", "gradients", "optimizer"))
    tight = with_memory(made, state + 1)
    tight.check_memory()
    assert "may not fit: try hw.tokens_per_device=32, hw.recompute=true, a smaller model" in tight.text()
    half = sum(made.with_micro_batch(12).memory_bytes.values())
    assert "may not fit: try hw.tokens_per_device=384\n" in with_memory(made, half * 10 // 9 + 1).text()
    with pytest.raises(UserError, match=r"weights, gradients, optimizer take .* but the device has"):
        with_memory(made, state - 1).check_memory()


def test_the_attention_kernel_is_one_that_runs_here() -> None:
    made = plan(768, 768, steps=10)
    assert "attention" not in made.text()
    here = made.on_this_machine()
    assert here.hardware.attention == "blocked" and "float32, attention blocked" in here.text()
    masked = dataclasses.replace(made, hardware=dataclasses.replace(CPU, attention="sdpa")).on_this_machine()
    assert masked.note == ""
    if not torch.cuda.is_available():
        wanted = dataclasses.replace(made, hardware=dataclasses.replace(CPU, attention="flash3"))
        with pytest.raises(UserError, match=r"hw.attention=flash3 does not run here"):
            wanted.on_this_machine()


def streamed(rank: int, precision: Any = "float32", **options: Any) -> Plan:
    config = NanoChatSpec(depth=2, n_embd=256, head_dim=64, sequence_len=512).config(300)
    hardware = dataclasses.replace(CPU, tokens_per_device=512, precision=precision, **options)
    horizon = HorizonSpec(total_batch_tokens=512, steps=10)
    streaming = Streaming(enabled=bool(rank), rank_k=max(1, rank))
    return make_plan(config, config, horizon, hardware, 16, 1e9, streaming=streaming)


def test_streaming_saves_what_the_plan_says() -> None:
    dense, low = streamed(0), streamed(8)
    matrices = 2 * 2 * 4 * 256 * 256 * 4  # of the feed-forward layers, float32
    sketches = 2 * 2 * (256 + 4 * 256) * 8 * 4
    assert dense.memory_bytes["gradients"] - low.memory_bytes["gradients"] == matrices - sketches
    lefts = 2 * 2 * 4 * 256 * 8 * 4  # the momentum's shape, too
    assert dense.memory_bytes["optimizer"] - low.memory_bytes["optimizer"] == matrices - sketches - lefts
    # A dense layer keeps two activations, four times as wide, for the backward pass.
    assert dense.memory_bytes["activations"] - low.memory_bytes["activations"] >= 2 * 2 * 4 * 256 * 512 * 4
    everywhere = dataclasses.replace(low, streaming=Streaming(enabled=True, rank_k=8, target_layers="all"))
    assert "(k=8, 12 of 13 matrices, 8 by renewal alone;" in everywhere.text()
    saved = f"{size(low.saved_bytes)} saved"
    assert low.saved_bytes > matrices + 2 * 2 * 4 * 256 * 512 * 4
    assert f"low-rank gradients (k=8, 4 of 13 matrices; {saved})" in low.text() and "low-rank" not in dense.text()
    with pytest.raises(UserError, match=r"streaming\.enabled=true computes in the precision of the activations"):
        streamed(8, "float8")


def test_transformer_engine_computes_its_layers_once_and_as_they_are() -> None:
    assert streamed(0, "transformer-engine").hardware.compile is False
    with pytest.raises(UserError, match=r"streaming\.enabled=true computes in the precision of the activations"):
        streamed(8, "transformer-engine")
    for option in ("compile", "recompute"):
        with pytest.raises(UserError, match=rf"transformer-engine does not go with hw\.{option}=true"):
            streamed(0, "transformer-engine", **{option: True})


def test_a_step_of_streamed_matrices_is_tried() -> None:
    made = streamed(8)
    assert step_fits(made, MuonAdamWSpec(), Execution(streaming=made.streaming))
