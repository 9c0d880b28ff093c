import pytest
import torch
from torch import nn

from nanochat_pl.core.errors import UserError
from nanochat_pl.optim.groups import build_param_groups
from nanochat_pl.optim.muon import MuonAdamWSpec

ROLES = ("matrix", "embedding", "value_embedding", "unembedding", "resid_scalar", "x0_scalar", "gate")


def parameters() -> dict[str, nn.Parameter]:
    return {role: nn.Parameter(torch.zeros(4, 4)) for role in ROLES}


def test_the_default_recipe_is_nanochats_at_its_reference_width() -> None:
    groups = build_param_groups(parameters().items(), {role: role for role in ROLES}, MuonAdamWSpec(), width=768)
    found = {group["role"]: group for group in groups}
    assert {role: group["lr"] for role, group in found.items()} == {
        "matrix": 0.02,
        "embedding": 0.3,
        "value_embedding": 0.15,
        "unembedding": 0.008,
        "resid_scalar": 0.005,
        "x0_scalar": 0.5,
        "gate": 0.2,
    }
    betas = {role: group.get("betas", group.get("beta2")) for role, group in found.items()}
    assert betas == {
        "matrix": 0.9,
        "embedding": (0.8, 0.995),
        "value_embedding": (0.8, 0.995),
        "unembedding": (0.8, 0.96),
        "resid_scalar": (0.8, 0.95),
        "x0_scalar": (0.96, 0.95),
        "gate": (0.8, 0.95),
    }
    decays = {role: group["weight_decay"] for role, group in found.items()}
    assert decays == {
        "matrix": 0.28,
        "embedding": 0.001,
        "value_embedding": 0.01,
        "unembedding": 0.01,
        "resid_scalar": 0.05,
        "x0_scalar": 0.0,
        "gate": 0.0,
    }


def test_width_scales_embeddings_and_head_and_the_batch_scales_all() -> None:
    groups = build_param_groups(
        parameters().items(),
        {role: role for role in ROLES},
        MuonAdamWSpec(),
        width=192,
        batch_lr_scale=0.5,
        weight_decay=1.25,
    )
    found = {group["role"]: group["lr"] for group in groups}
    assert found == {
        "matrix": 0.01,
        "embedding": pytest.approx(0.3),
        "value_embedding": pytest.approx(0.15),
        "unembedding": pytest.approx(0.008),
        "resid_scalar": 0.0025,
        "x0_scalar": 0.25,
        "gate": 0.1,
    }
    assert [group["weight_decay"] for group in groups if group["role"] == "matrix"] == [1.25]


def test_mistakes_in_roles_are_named() -> None:
    spec = MuonAdamWSpec()
    with pytest.raises(UserError, match=r"role 'embeding'.*did you mean 'embedding'"):
        build_param_groups(parameters().items(), {role: role for role in ROLES} | {"gate": "embeding"}, spec, width=8)
    with pytest.raises(UserError, match="role None"):
        build_param_groups(parameters().items(), {}, spec, width=8)
    with pytest.raises(UserError, match=r"shape \(3,\) is no matrix"):
        build_param_groups([("x", nn.Parameter(torch.zeros(3)))], {"x": "matrix"}, spec, width=8)
    with pytest.raises(UserError, match="nothing to optimize"):
        build_param_groups([], {}, spec, width=8)
