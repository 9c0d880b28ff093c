"""The diagrams of the skill `explain` against the code: names, shapes, numbers, orders."""

import importlib
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from nanochat_pl.data.module import Layout
from nanochat_pl.data.targets import inputs_and_targets
from nanochat_pl.models.config import NanoChatConfig
from nanochat_pl.models.contract import build_model
from nanochat_pl.nn.position import rotary_tables
from nanochat_pl.optim.muon import MuonAdamWSpec
from nanochat_pl.tokenizers.base import SPECIAL_TOKENS
from nanochat_pl.tokenizers.byte import ByteTokenizer
from nanochat_pl.tokenizers.chat import render_conversation
from tests.processes import REPOSITORY

FOLDER = REPOSITORY / ".claude" / "skills" / "explain"
DIAGRAMS = {path.stem: path.read_text() for path in sorted(FOLDER.glob("*.txt"))}
CONFIG = NanoChatConfig(vocab_size=300, sequence_len=8, n_layer=4, n_head=6, n_kv_head=3, n_embd=48)
SIZES = {
    "B": 2, "T": 8, "C": 48, "H": 6, "H_kv": 3, "D": 8, "K": 24, "V": 320, "L": 4, "vocab": 300,
    "rows": 4 * 48, "cols": 48, "N": 7, "S": 8,
}  # fmt: skip
_SIZE = r"\d*(?:H_kv|vocab|rows|cols|[BTCHDKVLNS])(?:\+1)?|\d+"
SHAPE = re.compile(rf"([A-Za-z_][\w.]*)(?: ->)? \(((?:{_SIZE})(?:, (?:{_SIZE}))*)\)")
AT_LEAST = {
    "gpt": 9,
    "attention": 9,
    "mlp": 5,
    "rotary": 4,
    "optimizer": 3,
    "dataloader": 3,
    "tokenizer": 0,
    "engine": 2,
}
"""How many shapes each diagram names."""


@pytest.fixture(scope="module")
def real() -> dict[str, tuple[int, ...]]:
    """name -> shape, of everything in a small model, its optimizer, its cache and its batches; no layers' numbers."""
    model = build_model(CONFIG, "cpu", seed=0)
    shapes: dict[str, tuple[int, ...]] = {}

    def note(name: str, tensor: torch.Tensor) -> None:
        shape = tuple(tensor.shape)
        assert shapes.setdefault(name, shape) == shape, f"{name} has several shapes"

    for name, parameter in model.named_parameters():
        note(_without_number(name), parameter)
    for name, module in model.named_modules():
        if name.endswith(("fc", "proj")):
            module.register_forward_hook(lambda _, __, y, name=name: note(_without_number(name), y))
    attend = model.attention.attend

    def noting(q: Any, k: Any, v: Any, *rest: Any) -> torch.Tensor:
        y = attend(q, k, v, *rest)
        for name, tensor in (("q", q), ("k", k), ("v", v), ("y", y)):
            note(name, tensor)
        return y

    model.attention.attend = noting
    ids = torch.randint(300, (SIZES["B"], SIZES["T"]))
    model.blocks[0].register_forward_pre_hook(
        lambda _, given: [note(n, t) for n, t in zip(("x", "x0"), given)] and None
    )
    note("ids", ids)
    note("logits", model.forward(ids))
    del model.attention.attend
    model.forward(ids, ids).backward()
    for name, table in zip(("cos", "sin"), rotary_tables(SIZES["T"], SIZES["D"], CONFIG.rope_base, "cpu")):
        note(name, table)
    optimizer = MuonAdamWSpec().build(model.named_parameters(), model.param_roles(), width=CONFIG.n_embd)
    optimizer.step()
    fc = model.blocks[0].mlp.fc.weight
    note("mlp.fc.weight", fc)
    for name, value in optimizer.state[fc].items():
        note(name, value)
    with torch.inference_mode():
        cache = model.build_cache(SIZES["N"], SIZES["S"])
    note("keys", cache.keys[0])
    note("values", cache.values[0])
    block = np.zeros((SIZES["B"], SIZES["T"] + 1), dtype=np.int64)
    for name, array in zip(
        ("block", "inputs", "targets"), (block, *inputs_and_targets(block, marked=False, padding_id=0))
    ):
        note(name, torch.from_numpy(array))
    return shapes


def _without_number(name: str) -> str:
    return re.sub(r"\.\d+\b", "", name).removeprefix("blocks.")


def _size(text: str) -> int:
    factor, name, more = re.fullmatch(r"(\d*)([A-Za-z_]*)(\+1)?", text).groups()
    return int(factor or 1) * (SIZES[name] if name else 1) + (1 if more else 0)


def listed(diagram: str, heading: str) -> list[str]:
    """The lines below a heading."""
    _, _, below = DIAGRAMS[diagram].partition(f"\n{heading}\n")
    return [line.strip() for line in below.split("\n\n")[0].splitlines()]


def row(diagram: str, name: str) -> list[str]:
    """The words of the indented line that begins with a name."""
    [words] = re.findall(rf"^     {name} +(.+)$", DIAGRAMS[diagram], re.MULTILINE)
    return words.split()


def test_every_diagram_is_offered_and_small_enough_to_read() -> None:
    text = (FOLDER / "SKILL.md").read_text()
    assert DIAGRAMS.keys() == AT_LEAST.keys() == set(re.findall(r"\((\w+)\.txt\)", text))
    for diagram in DIAGRAMS.values():
        lines = diagram.splitlines()
        assert 15 < len(lines) <= 60 and max(map(len, lines)) <= 120


@pytest.mark.parametrize("name", DIAGRAMS)
def test_shapes_are_those_of_the_code(name: str, real: dict[str, tuple[int, ...]]) -> None:
    told = SHAPE.findall(DIAGRAMS[name])
    assert len(told) >= AT_LEAST[name], told
    for tensor, shape in told:
        assert tensor in real, f"{name}.txt: nothing is called {tensor}"
        assert tuple(map(_size, shape.split(", "))) == real[tensor], f"{name}.txt: {tensor} ({shape})"


@pytest.mark.parametrize("name", DIAGRAMS)
def test_names_are_in_the_files_that_are_given(name: str) -> None:
    lines = listed(name, "In the code")
    assert len(lines) >= 2
    for line in lines:
        path, _, names = line.partition(": ")
        module = importlib.import_module(".".join(Path(path).with_suffix("").parts))
        assert (REPOSITORY / path).is_file() and names
        for dotted in names.split(", "):
            found: Any = module
            for part in dotted.split("."):
                found = getattr(found, part)  # an AttributeError names what is not there
            assert getattr(found, "__module__", module.__name__) == module.__name__, (
                f"{dotted} is of {found.__module__}"
            )


def test_numbers_are_those_of_the_code() -> None:
    seen = 0
    for name in DIAGRAMS:
        modules = [line.split(":")[0] for line in listed(name, "In the code")]
        for line in listed(name, "Numbers"):
            constant, value = line.split(" = ")
            held = [importlib.import_module(path[:-3].replace("/", ".")) for path in modules]
            assert next(getattr(module, constant) for module in held if hasattr(module, constant)) == int(value)
            seen += 1
    assert seen >= 4
    assert f"rope_base {CONFIG.rope_base:.0f}" in DIAGRAMS["rotary"]
    assert f"{CONFIG.softcap:.0f} * tanh(logits / {CONFIG.softcap:.0f})" in DIAGRAMS["gpt"]
    assert "_prefill: 256 tokens" in DIAGRAMS["engine"]


def test_the_optimizers_roles_are_those_of_the_model() -> None:
    rows = re.findall(r"^  (\w+) +(Muon|AdamW) +(.+)$", DIAGRAMS["optimizer"], re.MULTILINE)
    model = build_model(CONFIG, "meta", seed=None)
    roles = model.param_roles()
    assert {role for role, _, members in rows if not members.startswith("none here")} == set(roles.values())
    assert {role for role, by, _ in rows if by == "AdamW"} == MuonAdamWSpec().rows().keys()
    for role, _, members in rows[1:-1]:
        assert {name.split(".")[0] for name, own in roles.items() if own == role} == set(members.split(", "))


def test_rows_are_dealt_as_drawn() -> None:
    numbers, streams, ranks = ([int(word) for word in row("dataloader", name)] for name in ("row", "stream", "rank"))
    assert numbers == list(range(8)) and streams == [n % 4 for n in numbers]
    layouts = [Layout(8, rows_per_step=8, micro_batch_rows=1, streams=4, rank=rank, world_size=2) for rank in (0, 1)]
    assert ranks == [next(rank for rank in (0, 1) if n in layouts[rank].own_rows(0)) for n in numbers]
    assert all(stream in layouts[rank].own_streams for stream, rank in zip(streams, ranks))


def test_the_conversation_is_rendered_as_drawn() -> None:
    tokenizer = ByteTokenizer()
    words, marks = row("tokenizer", "token"), [int(word) for word in row("tokenizer", "learned")]
    rendered = render_conversation(
        tokenizer, [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Yo"}]
    )
    ids: list[int] = []
    mask: list[int] = []
    for word, mark in zip(words, marks, strict=True):
        own = [tokenizer.special_tokens[word]] if word in SPECIAL_TOKENS else tokenizer.encode(word)
        ids, mask = ids + own, mask + [mark] * len(own)
    assert (ids, mask) == (rendered.ids, rendered.mask)
    drawn: Sequence[str] = re.findall(r"<\|\w+\|>", DIAGRAMS["tokenizer"].split("A conversation")[0])
    assert tuple(drawn) == SPECIAL_TOKENS
