"""A plan as people read it."""

from typing import Any

from nanochat_pl.core.figures import duration, size
from nanochat_pl.models.contract import build_model
from nanochat_pl.models.execution import Execution


def screen(plan: Any, price_per_hour: float | None = None) -> str:
    """A `Plan`, a line a subject."""
    model, horizon, hardware = plan.model, plan.horizon, plan.hardware
    roles = ", ".join(f"{role} {count:,}" for role, count in plan.cost.parameters_by_role.items() if count)
    windows = f"windows {model.window_pattern}, " if set(model.window_pattern) != {"L"} else ""
    memory = ", ".join(f"{name} {size(held)}" for name, held in plan.memory_bytes.items() if held)
    peak = hardware.chip.peak_flops(hardware.precision)
    mfu = f", {plan.flops_per_second / peak:.0%} of the peak" if peak else ""
    cost = f", {money(plan, price_per_hour)} at {price_per_hour:g} a device and hour" if price_per_hour else ""
    nodes = f"{hardware.nodes} nodes x " if hardware.nodes > 1 else ""
    options = "".join(
        f", {word}" for word, is_so in (("compiled", hardware.compile), ("recomputing", hardware.recompute)) if is_so
    )
    if plan.streaming.enabled:
        options += f", {_streamed(plan)}"
    kernel = f", attention {hardware.attention}" if hardware.attention else ""
    lines = [
        ("model", f"{model.n_layer} layers, width {model.n_embd}, {model.n_head} heads"
                  f"{f' ({model.n_kv_head} kv)' if model.n_kv_head != model.n_head else ''}, "
                  f"context {model.sequence_len}, {windows}vocabulary {model.vocab_size:,}"),
        ("parameters", f"{plan.cost.parameters:,} ({roles})"),
        ("horizon", f"{horizon.steps:,} steps x {horizon.total_batch_tokens:,} tokens = {horizon.tokens:,} tokens "
                    f"({horizon.tokens / plan.cost.scaling_parameters:.1f} per scaling parameter)"),
        ("batch", f"{plan.rows_per_step} rows a step = {plan.accumulation} x {plan.micro_batch_rows} rows x "
                  f"{hardware.world_size} device(s)"),
        ("scales", f"learning rates x {horizon.lr_scale:.3g}, weight decay x {horizon.weight_decay_scale:.3g}"),
        ("hardware", f"{nodes}{hardware.devices} x {hardware.chip.name}, {hardware.precision}{kernel}{options}"),
        ("memory", f"about {size(plan.total_bytes)} of {size(hardware.chip.memory_bytes)} "
                   f"({memory}){_memory_advice(plan)}"),
        ("speed", f"about {plan.tokens_per_second:,.0f} tokens/s ({plan.flops_per_second / 1e12:.3g} TFLOP/s a device"
                  f"{mfu})"),
        ("work", f"{plan.flops:.3g} FLOPs, about {duration(plan.seconds)}{cost}"),
    ]  # fmt: skip
    if plan.parent:
        lines.insert(0, ("from", f"{plan.parent['path']} ({plan.parent['stage']}, step {plan.parent['step']:,})"))
    if plan.note:
        lines.append(("note", plan.note))
    return "\n".join(f"{name:>10}  {value}" for name, value in lines)


def _streamed(plan: Any) -> str:
    """Which matrices have low-rank gradients, and what that saves."""
    model = build_model(plan.model, "meta", None, Execution(streaming=plan.streaming))
    roles, low_rank = list(model.param_roles().values()), model.low_rank.values()
    renewed = sum(not matrix.right.requires_grad for matrix in low_rank)
    alone = f", {renewed} by renewal alone" if renewed and plan.streaming.power_iters else ""
    return (
        f"low-rank gradients (k={plan.streaming.rank_k}, {len(low_rank)} of {roles.count('matrix')} matrices{alone}; "
        f"{size(plan.saved_bytes)} saved)"
    )


def money(plan: Any, price_per_hour: float) -> str:
    """What the training costs at the price of one device."""
    return f"{price_per_hour * plan.hardware.world_size * plan.seconds / 3600:,.2f}"


def _memory_advice(plan: Any) -> str:
    if plan.fits:
        return ""
    smaller = plan.smaller()
    advice = [f"hw.tokens_per_device={smaller.hardware.tokens_per_device}"] if smaller else []
    if not (smaller and smaller.fits):
        advice += ["a smaller model"] if plan.hardware.recompute else ["hw.recompute=true", "a smaller model"]
    return f"; it may not fit: try {', '.join(advice)}"
