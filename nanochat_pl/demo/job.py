"""One request on its way: what is asked, and how the workers' tokens become the answers' text."""

import asyncio
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from nanochat_pl.demo.refused import Refused
from nanochat_pl.demo.worker import NewToken, Submit
from nanochat_pl.inference.answer import AnswerStream, Part
from nanochat_pl.inference.sampling import Sampling
from nanochat_pl.tokenizers.base import Tokenizer


@dataclass(frozen=True)
class AnswerRequest:
    """What is to be answered: a conversation or a text.

    Attributes:
        model: its name; None: the server's default.
        messages: the conversation (see `tokenizers.chat`); a model that knows no conversations continues its text.
        prompt: a text to continue, or its token ids; where there are no messages.
        sampling: max_new_tokens is cut where the model's context ends; stop_ids are set by the service.
        stop: strings that end the answer.
        num_samples: answers.
    """

    model: str | None = None
    messages: Sequence[dict[str, Any]] | None = None
    prompt: str | Sequence[int] | None = None
    sampling: Sampling = field(default_factory=Sampling)
    stop: tuple[str, ...] = ()
    num_samples: int = 1


class Usage(NamedTuple):
    """What a request has used so far.

    Attributes:
        model: the name of the model that answers.
        tokenizer: that of the export that answers.
        prompt_tokens: of the prompt, read once however many answers there are.
        answer_tokens: sampled, in all answers.
        dropped_turns: the oldest messages that were left out because the conversation is longer than the context.
    """

    model: str
    tokenizer: Tokenizer
    prompt_tokens: int
    answer_tokens: int
    dropped_turns: int


@dataclass(frozen=True, slots=True)
class Delta:
    """What has come of one answer since the last time.

    Attributes:
        index: which of the request's answers.
        parts: the new text, tool calls and their outputs; often empty (text may be held back).
        token_ids: the new tokens, forced ones too.
        logprobs: of each token that was sampled, where it was asked for; else None.
        finish: at the end of the answer: "stop" at a stop token or string, "length" at the most tokens, at the end of
            the context or of the time.
        usage: of the whole request so far.
    """

    index: int
    parts: list[Part]
    token_ids: list[int]
    logprobs: list[float | None]
    finish: str | None
    usage: Usage


class Job:
    """The answers to one request.

    Attributes:
        open: key of each answer that has not ended -> its index.
        events: what the workers say, a Refused, or None when the time is over.
        began: `time.monotonic()` when it was accepted.
    """

    def __init__(self, submit: Submit, usage: Usage, stop: Sequence[str]):
        self.submit, self.usage = submit, usage
        self.open = {key: index for index, key in enumerate(submit.keys)}
        self.events: asyncio.Queue[list[NewToken] | Refused | None] = asyncio.Queue()
        self.began = time.monotonic()
        self._answers = [AnswerStream(usage.tokenizer, stop) for _ in submit.keys]

    def take(self, tokens: list[NewToken]) -> Iterator[Delta]:
        """What these tokens add to each answer."""
        of_key: dict[int, list[NewToken]] = {}
        for token in tokens:
            of_key.setdefault(token.key, []).append(token)
        for key, own in of_key.items():
            if key in self.open:
                yield self._take(key, own)

    def cut(self) -> Iterator[Delta]:
        """The end of all answers that have not ended."""
        for index in self.open.values():
            yield Delta(index, self._answers[index].end(), [], [], "length", self.usage)
        self.open.clear()

    def _take(self, key: int, tokens: list[NewToken]) -> Delta:
        index, parts, finish, sampled = self.open[key], [], None, 0
        answer = self._answers[index]
        ids, logprobs = [], []
        for token in tokens:
            if token.id is not None:
                ids.append(token.id)
                logprobs.append(token.logprob)
                sampled += not token.forced
                parts += answer.feed(token.id, token.forced)
            finish = "stop" if answer.stopped else token.finish
            if finish:
                parts += answer.end()
                del self.open[key]
                break
        self.usage = self.usage._replace(answer_tokens=self.usage.answer_tokens + sampled)
        return Delta(index, parts, ids, logprobs, finish, self.usage)
