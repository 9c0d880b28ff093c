"""The bodies of requests and responses of the API, in OpenAI's shapes.

An answer's text is `content` (chat) or `text` (completions). A chat answer with tool calls has `parts` beside its
`content`: everything in order, each part with a `type` (text, python, python_output) and a `text`; `content` is the
text parts alone. In a stream, a delta with only text has only `content`. A message that a client sends back with its
`parts` is read from these, so that the model sees what it had computed.
"""

import json
import secrets
import time
import uuid
from collections.abc import Sequence
from typing import Any

from pydantic import BaseModel, ConfigDict, Field

from nanochat_pl.core.errors import UserError
from nanochat_pl.demo.job import AnswerRequest, Delta, Usage
from nanochat_pl.demo.models import ModelInfo
from nanochat_pl.demo.refused import Refused
from nanochat_pl.inference.answer import Part, content_of
from nanochat_pl.inference.sampling import Sampling
from nanochat_pl.tokenizers.base import Tokenizer

MAX_STOP_STRINGS = 16
MAX_STOP_CHARACTERS = 1000
LINE_ENDS = {ord(end): f"\\u{ord(end):04x}" for end in "\x85\u2028\u2029"}
"""For `str.splitlines`, beside the control characters, which JSON escapes always."""
TO_THE_END = 1 << 30
"""Tokens of an answer that may be as long as the context allows."""


NOT_HERE: dict[str, tuple[Any, ...]] = {
    "presence_penalty": (0,),
    "frequency_penalty": (0,),
    "logit_bias": ({},),
    "functions": ([],),
    "tools": ([],),
    "response_format": ({"type": "text"},),
    "best_of": (1,),
    "echo": (False,),
    "suffix": ("",),
    "top_logprobs": (0,),
}
"""Fields of OpenAI's API that this one does not have, and the values that ask for nothing."""


class _Body(BaseModel):
    """Values must have the right type (no "1" for 1); unknown fields are passed over, as clients send many."""

    model_config = ConfigDict(strict=True, extra="allow", protected_namespaces=())

    model: str | None = None

    def check_extra(self) -> None:
        """See that nothing is asked for that would be passed over in silence.

        Raises:
            Refused: 400: it is.
        """
        for name, harmless in NOT_HERE.items():
            value = (self.model_extra or {}).get(name)
            if value is not None and value not in harmless:
                raise Refused(400, f"{name} is not supported by this server; leave it out.", param=name)


class StreamOptions(BaseModel):
    """Of a streamed response: whether a last chunk tells the usage."""

    include_usage: bool | None = None


class _Asked(_Body):
    """What requests for answers have in common."""

    stream: bool | None = None
    stream_options: StreamOptions | None = None
    n: int | None = None
    max_tokens: int | None = None
    stop: str | list[str] | None = None
    temperature: float | None = None
    top_p: float | None = None
    top_k: int | None = None
    min_p: float | None = None
    repetition_penalty: float | None = None
    seed: int | None = None

    @property
    def num_samples(self) -> int:
        return 1 if self.n is None else self.n

    @property
    def include_usage(self) -> bool:
        return bool(self.stream_options and self.stream_options.include_usage)

    def sampling(self, max_new_tokens: int | None, logprobs: bool) -> Sampling:
        """The engine's settings.

        Raises:
            Refused: 400: one is out of its range.
        """
        given: dict[str, Any] = {
            "temperature": self.temperature,
            "top_p": self.top_p,
            "top_k": None if self.top_k in (0, -1) else self.top_k,  # as vLLM spells "among all"
            "min_p": self.min_p,
            "repetition_penalty": self.repetition_penalty,
        }
        try:
            return Sampling(
                max_new_tokens=TO_THE_END if max_new_tokens is None else max_new_tokens,
                seed=secrets.randbits(63) if self.seed is None else self.seed % (1 << 63),
                logprobs=logprobs,
                **{name: value for name, value in given.items() if value is not None},
            )
        except UserError as error:
            word = str(error).split()[0]
            raise Refused(400, str(error), param="max_tokens" if word == "max_new_tokens" else word) from error

    def stop_strings(self) -> tuple[str, ...]:
        """The strings that end an answer.

        Raises:
            Refused: 400: too many, or too long.
        """
        stop = (self.stop,) if isinstance(self.stop, str) else tuple(self.stop or ())
        if len(stop) > MAX_STOP_STRINGS:
            raise Refused(400, f"There are {len(stop)} stop strings; at most {MAX_STOP_STRINGS}.", param="stop")
        if (longest := max(map(len, stop), default=0)) > MAX_STOP_CHARACTERS:
            message = f"A stop string has {longest:,} characters; at most {MAX_STOP_CHARACTERS:,}."
            raise Refused(400, message, param="stop")
        return stop


class ChatRequest(_Asked):
    """The body of POST /v1/chat/completions."""

    messages: list[dict[str, Any]]
    max_completion_tokens: int | None = None
    logprobs: bool | None = None

    def answer_request(self) -> AnswerRequest:
        """What it asks of the service."""
        most = self.max_tokens if self.max_completion_tokens is None else self.max_completion_tokens
        sampling, messages = self.sampling(most, bool(self.logprobs)), [_message(message) for message in self.messages]
        return AnswerRequest(self.model, messages, None, sampling, self.stop_strings(), self.num_samples)


class CompletionRequest(_Asked):
    """The body of POST /v1/completions; the prompt is a text or its token ids (which are read as they are)."""

    prompt: str | list[int] | list[str] | list[list[int]]
    logprobs: int | None = Field(None, ge=0, le=0)

    def answer_request(self) -> AnswerRequest:
        """What it asks of the service.

        Raises:
            Refused: 400: several prompts.
        """
        sampling = self.sampling(16 if self.max_tokens is None else self.max_tokens, self.logprobs is not None)
        return AnswerRequest(
            self.model, None, _one_prompt(self.prompt), sampling, self.stop_strings(), self.num_samples
        )


class TokenizeRequest(_Body):
    """The body of POST /v1/tokenize: a text, or a conversation as the model would read it."""

    prompt: str | None = None
    messages: list[dict[str, Any]] | None = None
    add_special_tokens: bool = True

    def answer_request(self) -> AnswerRequest:
        """The request whose prompt it is.

        Raises:
            Refused: 400: there are a text and a conversation, or neither.
        """
        if (self.prompt is None) == (self.messages is None):
            raise Refused(400, "Give either a prompt or messages.", param="prompt")
        messages = None if self.messages is None else [_message(message) for message in self.messages]
        return AnswerRequest(self.model, messages, self.prompt, Sampling(max_new_tokens=1))


def _one_prompt(prompt: Any) -> Any:
    """The prompt, where it may stand in a list by itself.

    Raises:
        Refused: 400: there are several.
    """
    if isinstance(prompt, list) and prompt and not isinstance(prompt[0], int):
        if len(prompt) > 1:
            raise Refused(400, f"There are {len(prompt)} prompts; send a request for each.", param="prompt")
        return prompt[0]
    return prompt


def _message(message: dict[str, Any]) -> dict[str, Any]:
    """A message of a request as `tokenizers.chat` knows them."""
    role, content = message.get("role"), message.get("content")
    if message.get("parts"):
        content = message["parts"]
    return {"role": "system" if role == "developer" else role, "content": content}


def model_object(model: ModelInfo) -> dict[str, Any]:
    """A model as GET /v1/models lists it."""
    return model.facts | {
        "id": model.name,
        "object": "model",
        "created": int(model.exported_seconds),
        "owned_by": "nanochat-pl",
        "stage": model.stage,
        "max_model_len": model.context_tokens,
    }


class Reply:
    """Makes the responses to one request for answers.

    Args:
        usage: of the stream's first item.
    """

    prefix, whole_object, chunk_object = "chatcmpl-", "chat.completion", "chat.completion.chunk"

    def __init__(self, tokenizer: Tokenizer, usage: Usage, logprobs: bool):
        self._tokenizer, self._logprobs = tokenizer, logprobs
        self._head = {"id": f"{self.prefix}{uuid.uuid4().hex}", "created": int(time.time()), "model": usage.model}
        if usage.dropped_turns:
            self._head["dropped_turns"] = usage.dropped_turns
        self._begun: set[int] = set()

    def whole(self, deltas: Sequence[Delta]) -> dict[str, Any]:
        """The response with all answers."""
        choices = []
        for index in range(1 + max(delta.index for delta in deltas)):
            own = [delta for delta in deltas if delta.index == index]
            choice = self._whole([part for delta in own for part in delta.parts]) | {"index": index}
            choice["finish_reason"] = own[-1].finish
            choice["logprobs"] = self._logprobs_of(
                [pair for delta in own for pair in zip(delta.token_ids, delta.logprobs)]
            )
            choices.append(choice)
        return {"object": self.whole_object, **self._head, "choices": choices, "usage": _usage(deltas[-1].usage)}

    def chunk(self, delta: Delta) -> str | None:
        """The event of a stream for this delta; None where it shows nothing."""
        if not (delta.parts or delta.finish or (self._logprobs and delta.token_ids)):
            return None
        choice = self._chunk(delta) | {"index": delta.index, "finish_reason": delta.finish}
        choice["logprobs"] = self._logprobs_of(list(zip(delta.token_ids, delta.logprobs)))
        self._begun.add(delta.index)
        return event({"object": self.chunk_object, **self._head, "choices": [choice]})

    def usage_chunk(self, usage: Usage) -> str:
        """The event that tells the usage."""
        return event({"object": self.chunk_object, **self._head, "choices": [], "usage": _usage(usage)})

    def _whole(self, parts: list[Part]) -> dict[str, Any]:
        message = {"role": "assistant", **_content(parts)}
        return {"message": message}

    def _chunk(self, delta: Delta) -> dict[str, Any]:
        role = {} if delta.index in self._begun else {"role": "assistant"}
        return {"delta": role | (_content(delta.parts) if delta.parts or role else {})}

    def _logprobs_of(self, tokens: list[tuple[int, float | None]]) -> dict[str, Any] | None:
        if not self._logprobs:
            return None
        entries = []
        for id, logprob in tokens:
            if logprob is not None:
                data = self._tokenizer.decode_bytes([id])
                text = data.decode("utf-8", "replace")
                entries.append({"token": text, "logprob": logprob, "bytes": list(data), "top_logprobs": []})
        return {"content": entries}


class TextReply(Reply):
    """The same for completions."""

    prefix, whole_object, chunk_object = "cmpl-", "text_completion", "text_completion"

    def _whole(self, parts: list[Part]) -> dict[str, Any]:
        return {"text": "".join(part.text for part in parts)}

    def _chunk(self, delta: Delta) -> dict[str, Any]:
        return self._whole(delta.parts)

    def _logprobs_of(self, tokens: list[tuple[int, float | None]]) -> dict[str, Any] | None:
        if not self._logprobs:
            return None
        sampled = [(self._tokenizer.decode([id]), logprob) for id, logprob in tokens if logprob is not None]
        return {"tokens": [text for text, _ in sampled], "token_logprobs": [logprob for _, logprob in sampled]}


def event(content: dict[str, Any]) -> str:
    """A server-sent event; whatever a client takes for the end of a line is escaped."""
    data = json.dumps(content, ensure_ascii=False, separators=(",", ":"))
    return f"data: {data.translate(LINE_ENDS)}\n\n"


def _content(parts: list[Part]) -> dict[str, Any]:
    """The text, and where there are tool calls all parts."""
    content = content_of(parts)
    if isinstance(content, str):
        return {"content": content}
    return {"content": "".join(part.text for part in parts if part.kind == "text"), "parts": content}


def _usage(usage: Usage) -> dict[str, int]:
    total = usage.prompt_tokens + usage.answer_tokens
    return {"prompt_tokens": usage.prompt_tokens, "completion_tokens": usage.answer_tokens, "total_tokens": total}
