"""`python -m nanochat_pl sample MODEL --prompt TEXT`."""

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

FILE = "FILE:"


class Device(StrEnum):
    """Where a model can compute."""

    cpu = "cpu"
    cuda = "cuda"
    mps = "mps"


def sample(
    model: Annotated[str, typer.Argument(help="A run (runs/NAME), a stage of it, a model folder, or hf:gpt2.")],
    prompt: Annotated[list[str], typer.Option(help="Text to go on from; can be given several times.")] = [],  # noqa: B006
    file: Annotated[
        list[Path], typer.Option(help="A UTF-8 file whose text to go on from; --prompt FILE:PATH says the same.")
    ] = [],  # noqa: B006
    max_new_tokens: Annotated[int, typer.Option(min=1)] = 128,
    temperature: Annotated[float, typer.Option(min=0.0, help="0 takes the likeliest token.")] = 0.8,
    top_k: Annotated[int | None, typer.Option(min=1, help="Choose among the k likeliest tokens.")] = None,
    num_samples: Annotated[int, typer.Option(min=1, help="Continuations of each prompt.")] = 1,
    seed: Annotated[int, typer.Option(min=0)] = 0,
    device: Annotated[Device, typer.Option(help="Where to compute.")] = Device.cpu,
) -> None:
    """Continue a text with a trained model."""
    from nanochat_pl.checkpoint.named_model import find_named_model
    from nanochat_pl.core.hardware import HardwareSpec
    from nanochat_pl.data.text_files import read_text
    from nanochat_pl.inference.generate import generate
    from nanochat_pl.inference.sampling import Sampling

    texts = [read_text(Path(text[len(FILE) :])) if text.startswith(FILE) else text for text in prompt]
    texts = [*texts, *map(read_text, file)] or [""]
    loaded = find_named_model(model).load(HardwareSpec(accelerator=device.value).detect().accelerator)
    tokenizer = loaded.tokenizer
    prompts = [[tokenizer.bos_id, *tokenizer.encode(text)] for text in texts]
    sampling = Sampling(max_new_tokens, temperature, top_k, seed=seed, stop_ids=tokenizer.end_ids)
    continuations = generate(loaded.model, prompts, sampling, num_samples)
    for i, ids in enumerate(continuations):
        print(texts[i // num_samples] + tokenizer.decode(ids))
        if len(continuations) > 1:
            print("---")
