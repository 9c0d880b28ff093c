"""The weights of one model under the names of another program, both ways."""

import dataclasses
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from nanochat_pl.core.errors import UserError

LIKELY = {
    r"blocks\.\d+\.attn\.value_gate\.weight": "nanochat, in nanochat-pl's own names",
    r"blocks\.\d+\.attn_norm\.bias": "gpt2, in nanochat-pl's own names",
    r"blocks\.\d+\.mlp\.gate\.weight": "llama, in nanochat-pl's own names",
    r"blocks\.\d+\.attn\.query\.weight": "one of nanochat-pl's own",
    r"(_orig_mod\.)?transformer\.h\.\d+\.attn\.c_q\.weight": "nanochat",
    r"(_orig_mod\.)?transformer\.h\.\d+\.ln_1\.weight": "GPT-2, of Hugging Face or nanoGPT",
    r"h\.\d+\.ln_1\.weight": "GPT-2, of Hugging Face",
    r"model\.layers\.\d+\.mlp\.gate_proj\.weight": "Llama or one of its kind (Mistral, Qwen, ...), of Hugging Face",
    r"model\.layers\.\d+\.mlp\.fc1\.weight": "nanochat, of Hugging Face",
    r"gpt_neox\..*": "GPT-NeoX (Pythia)",
    r"layers\.\d+\.attention\.wq\.weight": "Llama, in Meta's own names",
}
"""A weight's name, and the model whose it likely is."""


@dataclass(frozen=True)
class Weight:
    """How one weight is called there. `{}` in names stands for the layer.

    Attributes:
        ours: our weights whose rows make it up, one after the other.
        transposed: it is (in, out) there.
        may_be_tied: it stands there though the model has one table for both.
    """

    theirs: str
    ours: tuple[str, ...]
    transposed: bool = False
    may_be_tied: bool = False


@dataclass(frozen=True)
class WeightMap:
    """All weights of an architecture.

    Attributes:
        ignored: pattern of names that say nothing of the model: masks, a table's second name.
        prefix: pattern of what may stand before all names.
        written_prefix: before all names, where they are written.
    """

    weights: Sequence[Weight]
    ignored: str = r"(?!)"
    prefix: str = ""
    written_prefix: str = ""

    def export(self, weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Ours under their names; those that the model lacks (biases, for one) are left out."""
        exported = {}
        for entry in self._spelled(weights):
            if entry.ours[0] in weights:
                joined = torch.cat([weights[name] for name in entry.ours]) if entry.ours[1:] else weights[entry.ours[0]]
                exported[self.written_prefix + entry.theirs] = (joined.t() if entry.transposed else joined).contiguous()
        return exported

    def imported(self, weights: Mapping[str, Tensor], expected: Mapping[str, tuple[int, ...]]) -> dict[str, Tensor]:
        """Theirs under our names; what belongs nowhere keeps its name.

        Args:
            expected: our names, and the shapes of the model that is to take them.
        """
        found = {re.sub(f"^({self.prefix})", "", name): weight for name, weight in weights.items()}
        found = {name: weight for name, weight in found.items() if not re.fullmatch(self.ignored, name)}
        imported: dict[str, Tensor] = {}
        for entry in self._spelled(expected):
            if entry.ours[0] not in expected:
                if entry.may_be_tied:
                    found.pop(entry.theirs, None)
                continue
            if entry.theirs not in found:
                continue
            weight = found.pop(entry.theirs)
            weight = weight.t() if entry.transposed and weight.ndim == 2 else weight
            rows = [expected[name][0] for name in entry.ours]
            whole = len(rows) > 1 and weight.ndim > 0 and len(weight) == sum(rows)
            imported |= zip(entry.ours, weight.split(rows) if whole else [weight] * len(rows), strict=True)
        return imported | found

    def _spelled(self, ours: Iterable[str]) -> list[Weight]:
        """Its entries for each layer."""
        layers = {int(found[1]) for name in ours if (found := re.match(r"blocks\.(\d+)\.", name))}
        return [
            dataclasses.replace(
                entry, theirs=entry.theirs.format(layer), ours=tuple(name.format(layer) for name in entry.ours)
            )
            for entry in self.weights
            for layer in (sorted(layers) if "{}" in entry.theirs else [0])
        ]


def gpt2_weights(transposed: bool) -> WeightMap:
    """GPT-2's, as OpenAI named them; before the names stands what later programs have put there.

    Args:
        transposed: matrices are (in, out), as in OpenAI's and transformers' files; nanoGPT's are (out, in).
    """
    block, attention = "h.{}.", ("query", "key", "value")
    tables = {"wte": "embedding", "wpe": "position"}
    weights = [Weight(f"{theirs}.weight", (f"{ours}.weight",)) for theirs, ours in tables.items()]
    for kind in ("weight", "bias"):
        turned = transposed and kind == "weight"
        weights += [
            Weight(f"{block}ln_1.{kind}", (f"blocks.{{}}.attn_norm.{kind}",)),
            Weight(f"{block}attn.c_attn.{kind}", tuple(f"blocks.{{}}.attn.{p}.{kind}" for p in attention), turned),
            Weight(f"{block}attn.c_proj.{kind}", (f"blocks.{{}}.attn.proj.{kind}",), turned),
            Weight(f"{block}ln_2.{kind}", (f"blocks.{{}}.mlp_norm.{kind}",)),
            Weight(f"{block}mlp.c_fc.{kind}", (f"blocks.{{}}.mlp.fc.{kind}",), turned),
            Weight(f"{block}mlp.c_proj.{kind}", (f"blocks.{{}}.mlp.proj.{kind}",), turned),
            Weight(f"ln_f.{kind}", (f"norm.{kind}",)),
        ]
    return WeightMap(
        weights,
        ignored=r".*\.attn\.(masked_)?bias|lm_head\.weight",
        prefix=r"(_orig_mod\.)?(transformer\.)?",
        written_prefix="transformer.",
    )


def check_weights(
    expected: Mapping[str, tuple[int, ...]],
    found: Mapping[str, tuple[int, ...]],
    where: str,
    named: Iterable[str] | None = None,
) -> None:
    """See that names and shapes are those of the model.

    Args:
        named: the weights as the file names them, by which the likely model is found.

    Raises:
        UserError: they are not; tells of the first three, and whose they likely are.
    """
    wrong = []
    for name in [*expected, *(name for name in found if name not in expected)]:
        if name not in found:
            wrong.append(f"{name} is missing")
        elif name not in expected:
            wrong.append(f"{name} is not in the model")
        elif found[name] != expected[name]:
            wrong.append(f"{name} is {_shape(found[name])}, in the model {_shape(expected[name])}")
    if wrong:
        likely = likely_model(found if named is None else named)
        more = f" (and {len(wrong) - 3} more)" if wrong[3:] else ""
        whose = f"By their names they are of {likely}." if likely else "Their names are of no model that is known here."
        raise UserError(
            f"{where} holds the weights of another model than its description says: {'; '.join(wrong[:3])}{more}. "
            f"{whose}"
        )


def likely_model(names: Iterable[str]) -> str | None:
    """Whose weights these are, in words; None: nobody's that is known."""
    names = list(names)
    known = (model for pattern, model in LIKELY.items() if any(re.fullmatch(pattern, name) for name in names))
    return next(known, None)


def shapes_of(model: Any) -> dict[str, tuple[int, ...]]:
    """Of a model's weights by name."""
    return {name: tuple(weight.shape) for name, weight in model.state_dict().items()}


def resized(weight: Tensor, rows: int, tokens: int = 0) -> Tensor:
    """A vocabulary's table with `rows` rows: what it lacks below `tokens` gets the mean of its rows, padding zeros."""
    new = weight.new_zeros(rows, *weight.shape[1:])
    new[: len(weight)] = weight
    new[len(weight) : tokens] = weight.float().mean(dim=0).to(weight.dtype)
    return new


def _shape(shape: tuple[int, ...]) -> str:
    return " x ".join(map(str, shape)) or "a number"
