"""A conversation with a model: what was said, and the engine that answers. It knows no terminal."""

import dataclasses
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from nanochat_pl.checkpoint.named_model import NamedModel
from nanochat_pl.inference.answer import AnswerStream, Part, content_of
from nanochat_pl.inference.conversation import max_prompt_tokens, prompt_of, stop_ids
from nanochat_pl.inference.engine import Engine
from nanochat_pl.inference.sampling import Sampling
from nanochat_pl.tokenizers.chat import Message
from nanochat_pl.tools.tool_calls import ToolCalls


@dataclass
class Answered:
    """What is known of the newest answer.

    Attributes:
        prompt_tokens: that the model was given.
        answer_tokens: that came, a tool's output included.
        sampled_tokens: of them, those that the model chose.
        dropped_messages: the oldest ones that did not fit into the prompt.
        finish: "stop", "length", or None where it was stopped from outside.
    """

    prompt_tokens: int
    dropped_messages: int
    answer_tokens: int = 0
    sampled_tokens: int = 0
    seconds: float = 0.0
    finish: str | None = None


class ChatSession:
    """One conversation, with one model at a time.

    Attributes:
        messages: by user and assistant in turn.
        sampling: of the next answer; its seed counts on with the turns.
        newest: facts of the newest answer; None before the first.
    """

    def __init__(self, model: NamedModel, sampling: Sampling, device: str):
        self.messages: list[Message] = []
        self.sampling = sampling
        self.newest: Answered | None = None
        self._device = device
        self.load(model)

    def load(self, model: NamedModel) -> None:
        """Go on with this model; where it cannot be loaded, with the one before.

        Raises:
            UserError: it cannot be loaded.
        """
        self.loaded = model.load(self._device)
        self.name = model.name
        self._engine = Engine(self.loaded.model, max_rows=1)

    @property
    def context_tokens(self) -> int:
        """What the model looks back on: as much as it was trained to, or more by `model.long_window`."""
        return max(self.loaded.model.config.windows) + 1

    def clear(self) -> None:
        """Forget what was said."""
        self.messages, self.newest = [], None

    def ask(self, text: str, stopped: Callable[[], bool] = lambda: False) -> Iterator[Part]:
        """Say something; the answer's parts as they come.

        The turn belongs to the conversation once the answer has ended, or was stopped after its beginning.

        Args:
            stopped: asked between tokens; True ends the answer.

        Raises:
            UserError: the text alone is too long, or the tokenizer cannot encode it.
        """
        tokenizer, is_chat = self.loaded.tokenizer, self.loaded.is_chat
        asked = [*self.messages, {"role": "user", "content": text}]
        room = max_prompt_tokens(self.context_tokens, self.sampling.max_new_tokens)
        prompt, dropped = prompt_of(tokenizer, asked, is_chat, room)
        sampling = dataclasses.replace(
            self.sampling,
            stop_ids=stop_ids(tokenizer, is_chat),
            seed=self.sampling.seed + len(self.messages) // 2,
        )
        facts = self.newest = Answered(len(prompt), dropped)
        stream, said = AnswerStream(tokenizer), []
        start = time.perf_counter()
        [request] = self._engine.submit(prompt, sampling, [ToolCalls(tokenizer)] if is_chat else None)
        try:
            while self._engine.busy and not stopped():
                for token in self._engine.step():
                    facts.finish = token.finish
                    if token.id is None:
                        continue
                    facts.answer_tokens += 1
                    facts.sampled_tokens += not token.forced
                    for part in stream.feed(token.id, token.forced):
                        said.append(part)
                        yield part
        finally:
            self._engine.cancel(request)
            facts.seconds = time.perf_counter() - start
        for part in stream.end():
            said.append(part)
            yield part
        if said or facts.finish:
            self.messages = [*asked, {"role": "assistant", "content": content_of(said)}]
