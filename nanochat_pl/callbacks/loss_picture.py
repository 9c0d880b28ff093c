"""loss.png: training loss and validation bits per byte over the steps."""

import contextlib

from lightning.pytorch import Callback, LightningModule, Trainer

from nanochat_pl.core.run_folder import RunFolder


class LossPicture(Callback):
    """Draws the picture when the training ends, for whatever reason."""

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if trainer.is_global_zero:
            draw_loss(RunFolder(trainer.default_root_dir))

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        with contextlib.suppress(OSError):  # a full disk is what the exception may be about
            self.on_train_end(trainer, pl_module)


def draw_loss(run: RunFolder) -> None:
    """Draw metrics.csv into loss.png; nothing where there are no metrics yet."""
    metrics = run.read_metrics()
    if "train/loss" not in metrics:
        return
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9, 4.5), dpi=120, layout="constrained")
    axes = figure.add_subplot()
    axes.plot(*zip(*metrics["train/loss"]), color="#9db8d9", linewidth=1, label="training loss")
    if "val/loss" in metrics:
        axes.plot(*zip(*metrics["val/loss"]), color="#1f4e8c", marker="o", markersize=3, label="validation loss")
    axes.set(xlabel="optimizer step", ylabel="nats per token", title=f"{run.path.parent.name} / {run.path.name}")
    axes.grid(alpha=0.25)
    axes.spines[["top", "right"]].set_visible(False)
    lines = axes.get_lines()
    if "val/bpb" in metrics:
        right = axes.twinx()
        lines += right.plot(*zip(*metrics["val/bpb"]), "--", color="#c4622d", label="validation bits per byte")
        right.set_ylabel("bits per byte")
        right.set_ylim(bottom=0)
        right.spines["top"].set_visible(False)
        right.annotate(f"{metrics['val/bpb'][-1][1]:.3f}", metrics["val/bpb"][-1], xytext=(0, 6), ha="right",
                       textcoords="offset points", color="#c4622d")  # fmt: skip
    axes.legend(handles=lines, frameon=False)
    temporary = run.loss_picture.with_name(".loss.tmp.png")
    figure.savefig(temporary)
    temporary.replace(run.loss_picture)
