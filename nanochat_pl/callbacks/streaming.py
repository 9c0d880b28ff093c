"""How good the low-rank gradients are: a layer's full gradient, measured on the side now and then."""

from typing import Annotated, Any

import torch
from lightning.pytorch import Callback, Trainer
from torch import Tensor, nn
from torch.func import functional_call

from nanochat_pl.callbacks.cadence import stepped
from nanochat_pl.callbacks.metrics import logs_after
from nanochat_pl.core.spec import AtLeast


class StreamingTelemetry(Callback):
    """Measures matrices that keep low-rank gradients (nn/molegrad.py); does nothing where there are none.

    At every n-th step, if metrics are logged after it, the full gradients of one layer, the middle one, are computed
    beside the training. Logged are, as means over its matrices,

    - `streaming/energy`: the share of the squared norm of the gradient that lies in the subspace, |G Q|^2 / |G|^2;
    - `streaming/cosine`: between the step's change of the weights and -G;

    and, of all streamed matrices, `streaming/drift`, the share of the subspace that the step has exchanged,
    1 - |Q^T Q'|^2 / k, and `streaming/skipped`, steps so far that a matrix left out because its sketches were not
    finite. Stands before the metrics.
    """

    def __init__(self, every_n_steps: Annotated[int, AtLeast(1)] = 100) -> None:
        self.every_n_steps = every_n_steps
        self._shadow: Shadow | None = None
        self._weights: dict[str, Tensor] = {}
        self._bases: dict[str, Tensor] = {}

    def on_train_batch_start(self, trainer: Trainer, stage: Any, batch: Any, batch_idx: int) -> None:
        step = trainer.global_step + 1
        if self._shadow is not None or not stage.model.low_rank or step % self.every_n_steps:
            return
        if logs_after(trainer, step):
            self._shadow = Shadow(*middle_layer(stage.model))

    @torch.no_grad()
    def on_before_optimizer_step(self, trainer: Trainer, stage: Any, optimizer: torch.optim.Optimizer) -> None:
        if self._shadow is not None:
            low_rank = stage.model.low_rank
            self._weights = {name: low_rank[name].weight.clone() for name in self._shadow.gradients}
            self._bases = {name: matrix.right.clone() for name, matrix in low_rank.items()}

    @torch.no_grad()
    def on_train_batch_end(self, trainer: Trainer, stage: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        if self._shadow is None or not stepped(trainer):
            return
        self._shadow.remove()
        energy, cosine = [], []
        for name, gradient in self._shadow.gradients.items():
            gradient, matrix = trainer.strategy.reduce(gradient, reduce_op="mean"), stage.model.low_rank[name]
            gradient = gradient.mT if matrix.transposed else gradient
            change = self._weights[name] - matrix.weight
            energy.append(((gradient @ self._bases[name]).norm() / gradient.norm()).square())
            cosine.append(torch.cosine_similarity(change.flatten(), gradient.flatten(), dim=0))
        matrices, state = stage.model.low_rank, trainer.optimizers[0].state
        kept = [
            (self._bases[name].mT @ matrix.right).square().sum() / matrix.right.size(1)
            for name, matrix in matrices.items()
        ]
        skipped = [state[m.left]["skipped"] for m in matrices.values() if m.left in state]  # the others: other ranks
        total = torch.stack(skipped).sum() if skipped else kept[0].new_zeros(())
        stage.measured |= {
            "streaming/energy": torch.stack(energy).mean(),
            "streaming/cosine": torch.stack(cosine).mean(),
            "streaming/drift": 1 - torch.stack(kept).mean(),
            "streaming/skipped": trainer.strategy.reduce(total, reduce_op="sum"),
        }
        self._shadow, self._weights, self._bases = None, {}, {}


class Shadow(nn.Module):
    """Stands before a streamed layer, until `remove`, and adds up the gradients that its matrices would have had.

    Attributes:
        gradients: (m, n) float32 by the names of the weights.
    """

    def __init__(self, name: str, layer: Any):
        super().__init__()
        self._layer, self._streamed = (layer,), layer.in_training  # in tuples, so that they are no parts of this
        self._names = {own: f"{name}.{own}" for own, weight in layer.named_parameters() if weight.ndim == 2}
        self.gradients = {self._names[own]: torch.zeros_like(layer.get_parameter(own)) for own in self._names}
        layer.in_training = (self,)

    def remove(self) -> None:
        """Let the layer be as it was."""
        self._layer[0].in_training = self._streamed

    @torch.compiler.disable
    def forward(self, x: Tensor) -> Tensor:
        y = self._streamed[0](x)
        inputs = x.detach()
        y.register_hook(lambda gradient: self._add(inputs, gradient))
        return y

    def _add(self, inputs: Tensor, gradient: Tensor) -> None:
        layer = self._layer[0].eval()  # which computes densely
        weights = {own: layer.get_parameter(own).detach().requires_grad_() for own in self._names}
        with torch.enable_grad():
            y = functional_call(layer, weights, inputs)
        found = torch.autograd.grad(y, list(weights.values()), gradient)
        layer.train()
        for own, full in zip(weights, found):
            self.gradients[self._names[own]] += full


def middle_layer(model: nn.Module) -> tuple[str, nn.Module]:
    """The name and the module of the layer in the middle of those that are streamed as a whole."""
    layers: dict[str, nn.Module] = {}
    for name, module in model.named_modules():
        if getattr(module, "in_training", ()) and name.rpartition(".")[0] not in layers:
            layers[name] = module
    return list(layers.items())[len(layers) // 2]
