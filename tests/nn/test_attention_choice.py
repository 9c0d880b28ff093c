"""Which backend a model computes with, and what is said of those that do not run here."""

import dataclasses

import pytest
import torch

from nanochat_pl.core.errors import UserError
from nanochat_pl.models.contract import build_model
from nanochat_pl.models.execution import Execution
from nanochat_pl.nn.attention.blocked import Blocked
from nanochat_pl.nn.attention.choose import BACKENDS, advice, choose
from nanochat_pl.nn.attention.flex import Flex
from nanochat_pl.nn.attention.sdpa import SDPA
from tests.models.test_nanochat import TINY, batch, randomized

no_cuda = pytest.mark.skipif(torch.cuda.is_available(), reason="about machines without CUDA")
cuda = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs CUDA")


def test_a_cpu_computes_in_blocks_unless_told_otherwise():
    assert choose(None, "cpu", torch.float32).name == "blocked"
    assert choose("sdpa", "cpu", torch.bfloat16).name == "sdpa"


@pytest.mark.parametrize(
    ("name", "missing"),
    [("flash", "an NVIDIA GPU"), ("flash2", "an NVIDIA GPU"), ("flash3", "an NVIDIA GPU"), ("flash4", "an NVIDIA GPU"),
     ("flex", "CUDA only")],
)  # fmt: skip
def test_what_does_not_run_on_a_cpu_is_told_with_what_does(name, missing):
    with pytest.raises(UserError) as error:
        choose(name, "cpu", torch.float32)
    for words in (f"hw.attention={name} ", missing, "hw.attention=blocked"):
        assert words in str(error.value)


@no_cuda
def test_where_cuda_is_missing_what_needs_none_is_left():
    assert choose(None, "cuda", torch.bfloat16).name == "sdpa"
    assert "an NVIDIA GPU" in str(BACKENDS["flash"]().why_not(torch.device("cuda"), torch.bfloat16, 128))


@cuda
def test_on_cuda_the_first_that_runs_is_taken():
    fast = choose(None, "cuda", torch.bfloat16)
    assert fast.has_fast_windows and fast.name not in ("blocked", "sdpa")
    assert choose(None, "cuda", torch.float32).name == "flex"
    assert "float32" in str(BACKENDS["flash"]().why_not(torch.device("cuda"), torch.float32, 128))
    for name in BACKENDS:
        if BACKENDS[name]().why_not(torch.device("cuda"), torch.bfloat16, 128) is None:
            assert choose(name, "cuda", torch.bfloat16).name == name


@pytest.mark.parametrize("name", ["blocked", "sdpa"])
def test_a_model_computes_the_same_with_each_backend(name):
    config = dataclasses.replace(TINY, sequence_len=40, short_window=9)
    default, model = randomized(config), build_model(config, "cpu", None, Execution(attention=name))
    assert default.attention.name == "blocked" and model.attention.name == name
    model.load_state_dict(default.state_dict())
    ids, targets = batch(config)
    documents = (torch.arange(40)[None] + torch.tensor([[0], [5]])) // 13
    for given in (None, documents):
        for each in (default, model):
            each.zero_grad()
            each(ids, targets, documents=given).backward()
        for (parameter_name, one), other in zip(default.named_parameters(), model.parameters()):
            torch.testing.assert_close(one.grad, other.grad, rtol=1e-4, atol=1e-5, msg=parameter_name)


@pytest.mark.parametrize("name", ["blocked", "sdpa"])
def test_prompts_are_read_with_the_same_backend(name):
    model = build_model(TINY, "cpu", None, Execution(attention=name))
    model.load_state_dict(randomized(TINY).state_dict())
    ids, _ = batch(TINY)
    cache = model.build_cache(2, 24)
    assert cache.backend.name == name
    with torch.no_grad():
        logits = torch.cat([model(part, cache=cache) for part in (ids[:, :15], ids[:, 15:16], ids[:, 16:])], dim=1)
        torch.testing.assert_close(logits, model(ids), rtol=1e-5, atol=1e-5)


def test_a_prompt_is_not_worth_a_compilation():
    assert Flex().for_prompts().name == "sdpa"
    assert Blocked().for_prompts().name == "blocked"


@no_cuda
def test_a_model_is_not_built_with_a_backend_that_does_not_run_here():
    with pytest.raises(UserError, match=r"hw\.attention=flash3 does not run here"):
        build_model(TINY, "cpu", 0, Execution(attention="flash3"))


@pytest.mark.parametrize("name", [None, "flash3"])
def test_on_shapes_alone_any_name_will_do(name):
    model = build_model(TINY, "meta", None, Execution(attention=name))
    ids = torch.empty(2, 24, dtype=torch.int64, device="meta")
    model(ids, ids, documents=ids).backward()
    assert all(parameter.grad is not None for parameter in model.parameters())


def test_slow_windows_are_told():
    windows = TINY.windows
    assert len(set(windows)) == 2
    assert "model.window_pattern=L" in advice(SDPA(), windows)
    assert advice(Blocked(), windows) == advice(SDPA(), windows[-1:] * 4) == ""
