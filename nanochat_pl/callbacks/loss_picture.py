"""loss.png: training loss and validation bits per byte over the steps."""

from typing import Any

from lightning.pytorch import Trainer

from nanochat_pl.callbacks.cadence import AtEnd
from nanochat_pl.core.picture import DARK, PALE, THIRD, picture
from nanochat_pl.core.run_folder import RunFolder


class LossPicture(AtEnd):
    """Draws the picture when the training ends."""

    def at_end(self, trainer: Trainer, stage: Any) -> None:
        if trainer.is_global_zero:
            draw_loss(RunFolder(trainer.default_root_dir))


def draw_loss(run: RunFolder) -> None:
    """Draw metrics.csv into loss.png; nothing where there are no metrics yet."""
    metrics = run.read_metrics()
    if "train/loss" not in metrics:
        return
    with picture(run.loss_picture, 9, 4.5) as axes:
        axes.plot(*zip(*metrics["train/loss"]), color=PALE, linewidth=1, label="training loss")
        if "val/loss" in metrics:
            axes.plot(*zip(*metrics["val/loss"]), color=DARK, marker="o", markersize=3, label="validation loss")
        axes.set(xlabel="optimizer step", ylabel="nats per token")
        axes.set_title(f"{run.path.parent.name} / {run.path.name}", parse_math=False)
        lines = axes.get_lines()
        if "val/bpb" in metrics:
            right = axes.twinx()
            lines += right.plot(*zip(*metrics["val/bpb"]), "--", color=THIRD, label="validation bits per byte")
            right.set(ylabel="bits per byte", ylim=(0, None))
            right.grid(False)
            right.spines["right"].set_visible(True)
            right.annotate(f"{metrics['val/bpb'][-1][1]:.3f}", metrics["val/bpb"][-1], xytext=(0, 6), ha="right",
                           textcoords="offset points", color=THIRD)  # fmt: skip
        axes.legend(handles=lines)
