"""`python -m nanochat_pl chat [MODEL] [-p PROMPT]`: talk with a model in the terminal."""

import sys
from typing import TYPE_CHECKING, Annotated

import typer

from nanochat_pl.cli.sample import Device

if TYPE_CHECKING:
    from nanochat_pl.cli.chat_session import ChatSession


def chat(
    model: Annotated[
        str | None,
        typer.Argument(
            help="A run (runs/NAME), a stage of it (runs/NAME/sft), either at a step (runs/NAME/base@200), a model "
            "folder, or hf:NAME; the default is the newest model.",
            show_default=False,
        ),
    ] = None,
    prompt: Annotated[
        str | None,
        typer.Option("--prompt", "-p", help="Answer this once, as plain text, and end.", show_default=False),
    ] = None,
    temperature: Annotated[float, typer.Option(help="0 takes the likeliest token.")] = 0.6,
    top_k: Annotated[int | None, typer.Option(help="Choose among the k likeliest tokens.")] = None,
    top_p: Annotated[
        float | None, typer.Option(help="Choose among the likeliest tokens that together have this probability.")
    ] = None,
    max_new_tokens: Annotated[int, typer.Option(min=1, help="Of an answer.")] = 256,
    seed: Annotated[
        int | None, typer.Option(help="The same one gives the same answers; the default is a new one each time.")
    ] = None,
    device: Annotated[
        Device | None, typer.Option(help="Where to compute; the default is the best that is here.", show_default=False)
    ] = None,
) -> None:
    """Talk with a trained model. Without a terminal, what comes through the pipe is the prompt."""
    from nanochat_pl.checkpoint.named_model import find_named_model

    found = find_named_model(model)
    interactive = prompt is None and sys.stdin.isatty()
    if interactive:
        print(f"Loading {found.name} ...", file=sys.stderr)

    import secrets

    from nanochat_pl.cli.chat_session import ChatSession
    from nanochat_pl.core.hardware import HardwareSpec
    from nanochat_pl.inference.sampling import Sampling

    sampling = Sampling(
        max_new_tokens=max_new_tokens,
        temperature=temperature,
        top_k=top_k,
        top_p=top_p,
        seed=secrets.randbits(32) if seed is None else seed,
    )
    accelerator = HardwareSpec(accelerator=device.value if device else None).detect().accelerator
    session = ChatSession(found, sampling, accelerator)
    # What is typed or piped may be no text in the terminal's encoding, and that may lack characters of the answer.
    if prompt is None:
        sys.stdin.reconfigure(errors="replace")  # type: ignore[union-attr]
    sys.stdout.reconfigure(errors="replace")  # type: ignore[union-attr]
    if interactive:
        from nanochat_pl.cli.chat_terminal import ChatTerminal

        ChatTerminal(session).run()
    else:
        answer_once(session, sys.stdin.read() if prompt is None else prompt)


def answer_once(session: "ChatSession", prompt: str) -> None:
    """Write the text of one answer to standard output as it comes, without tool calls.

    Raises:
        Interrupted: by Ctrl-C.
    """
    import os

    from nanochat_pl.core.errors import EXIT_SIGINT, Interrupted

    try:
        for kind, text in session.ask(prompt):
            if kind == "text":
                print(text, end="", flush=True)
        print(flush=True)
    except BrokenPipeError:  # whoever read has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    except KeyboardInterrupt:
        raise Interrupted("Interrupted.", EXIT_SIGINT) from None
