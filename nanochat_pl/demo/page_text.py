"""What the page says about models and answers."""

from typing import Any

from nanochat_pl.demo.models import ModelInfo

CHAT_EXAMPLES = ("What is 123 plus 45?", "How many letters does the word banana have?", "Tell me a short story.")
BASE_EXAMPLES = ("One sunny morning,", "The capital of France is", "If you add 3 and 4, you get")


def choice_label(info: ModelInfo, is_default: bool) -> str:
    """One line of the list of models: its name and stage, and how good it is."""
    words = [f"{info.name} (default)" if is_default else info.name]
    if info.name.split("/")[-1] != info.stage:
        words.append(info.stage)
    if "val_bpb" in info.facts:
        words.append(f"{info.facts['val_bpb']:.3f} bpb")
    return " · ".join(words)


def welcome(info: ModelInfo | None) -> dict[str, Any]:
    """What stands where the conversation will be: title, text, and a command or examples to begin with."""
    if info is None:
        return {
            "title": "There is no model yet",
            "text": "Train a small model in a few minutes, then look again with the button beside the list of models:",
            "command": "python train.py",
        }
    if info.stage == "base":
        return {
            "title": "Begin a text",
            "text": f"{info.name} is a base model: it continues what you write, and has not learned to converse.",
            "examples": BASE_EXAMPLES,
        }
    return {
        "title": "Talk to it",
        "text": f"{info.name} is a small model: quick to answer, and quick to make things up.",
        "examples": CHAT_EXAMPLES,
    }


def note(info: ModelInfo | None) -> str:
    """The line under the input."""
    if info is None:
        return "No model"
    if info.stage == "base":
        return f"{info.name} is a base model: it continues text."
    return f"{info.name} is a small model and can be wrong."


def placeholder(info: ModelInfo | None) -> str:
    """What stands in the empty input."""
    if info is None:
        return "Train a model first"
    return "Begin a text" if info.stage == "base" else "Your message"


def left_out(dropped_turns: int) -> str:
    """The notice that the conversation has outgrown the model's context."""
    what = "message was" if dropped_turns == 1 else f"{dropped_turns} messages were"
    return f"The conversation is longer than the model's context: the oldest {what} left out."


def status(tokens: int, seconds: float, finish: str | None) -> str:
    """The line under an answer: its tokens, their speed (the first one's wait left out), and why it ended early."""
    words = [f"{tokens:,} token{'' if tokens == 1 else 's'}"] if tokens else []
    if tokens > 1 and seconds > 0:
        words.append(f"{(tokens - 1) / seconds:,.0f} tok/s")
    early = {"length": "reached its maximum length", "stopped": "stopped"}
    if finish in early:
        words.append(early[finish])
    return " · ".join(words)
