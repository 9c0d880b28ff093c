"""The tool calls of one row of generation: sampled tokens in, forced tokens out.

    <|python_start|> 12*7 <|python_end|>      sampled by the model
    <|output_start|> 84 <|output_end|>        forced: computed here, encoded as ordinary text

A row keeps one `ToolCalls` for as long as it is generated; nothing in it knows of the model, the cache or the batch.
"""

from collections.abc import Callable, Sequence
from typing import Protocol

from nanochat_pl.core.errors import UserError
from nanochat_pl.tools.calculator import evaluate

MAX_CALL_TOKENS = 256
MAX_OUTPUT_CHARACTERS = 1024


class ToolTokenizer(Protocol):
    """What a tokenizer must offer; `nanochat_pl.tokenizers.base.Tokenizer` does."""

    @property
    def special_tokens(self) -> dict[str, int]: ...

    def is_text(self, token: int) -> bool: ...

    def encode(self, text: str) -> list[int]: ...

    def decode(self, ids: Sequence[int]) -> str: ...


class ToolCalls:
    """The state of one row: outside of a call, or within one with its tokens so far.

    Only the token ids of the four markers open, close and answer a call: text that spells a marker is ordinary text,
    in an expression as in a result.

    Args:
        tokenizer: the model's.
        tool: from the text between the markers to the output's text (cut at MAX_OUTPUT_CHARACTERS), or None for a call
            that is to stay without an output. It must not raise.
        max_call_tokens: a call that grows longer is over, without an output.
    """

    def __init__(
        self,
        tokenizer: ToolTokenizer,
        tool: Callable[[str], str | None] = evaluate,
        max_call_tokens: int = MAX_CALL_TOKENS,
    ):
        special = tokenizer.special_tokens
        self.python_start_id = special["<|python_start|>"]
        self.python_end_id = special["<|python_end|>"]
        self.output_start_id = special["<|output_start|>"]
        self.output_end_id = special["<|output_end|>"]
        self._tokenizer = tokenizer
        self._tool = tool
        self._max_call_tokens = max_call_tokens
        self._call: list[int] | None = None

    @property
    def in_call(self) -> bool:
        """Whether a call is open: its start was fed, and neither its end nor anything that ends it quietly."""
        return self._call is not None

    def feed(self, token: int) -> list[int]:
        """Take the row's next token; returns the tokens that must follow it, most often none.

        They need not be fed back; it does no harm. A call ends quietly, with nothing forced, when the tool refuses it,
        when it is empty or too long, when the tokenizer cannot encode the result (a character tokenizer without a
        point), and at any special or unknown token within it other than its end: a second start does not open a new
        call.
        """
        if self._call is None:
            if token == self.python_start_id:
                self._call = []
            return []
        if self._tokenizer.is_text(token) and len(self._call) < self._max_call_tokens:
            self._call.append(token)
            return []
        call, self._call = self._call, None
        return self._output(call) if token == self.python_end_id and call else []

    def _output(self, call: list[int]) -> list[int]:
        result = self._tool(self._tokenizer.decode(call))
        if result is None:
            return []
        try:
            ids = self._tokenizer.encode(result[:MAX_OUTPUT_CHARACTERS])
        except UserError:
            return []
        return [self.output_start_id, *ids, self.output_end_id]
