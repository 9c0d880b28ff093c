"""The engine: many answers at once, of prompts and settings of their own, joining and leaving between steps.

A step reads one chunk of one prompt (prefill) and continues all answers under way by a token (decode), so that a long
prompt does not stall them. After vLLM's continuous batching and chunked prefill (arXiv:2309.06180, arXiv:2308.16369);
rows of a cache instead of pages, which is what a small model needs.

Slots of the cache hold, in this order: rows that decode, rows whose prompt is being read, and finished rows whose
tokens a following turn may go on from.
"""

import dataclasses
import random
from collections import deque
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple, Protocol

import torch

from nanochat_pl.core.errors import UserError
from nanochat_pl.inference.captured import CapturedDecoder
from nanochat_pl.inference.choosing import choose
from nanochat_pl.inference.sampling import Sampling

PREFILL_TOKENS = 256
"""Of a prompt read in one step."""


class ForcedTokens(Protocol):
    """What may follow a sampled token by force, such as a tool's output."""

    def feed(self, token: int) -> Sequence[int]:
        """The tokens that must come after this one; each row has its own, and forced tokens are not fed."""


class Token(NamedTuple):
    """One token of an answer.

    Attributes:
        request: the number that `submit` gave.
        id: None where the answer ends without one.
        forced: it was not sampled.
        logprob: of a sampled token, where it was asked for.
        finish: "stop" at a stop token (which is not part of the answer), "length" after max_new_tokens, or where the
            model knows no further position.
        stop_id: that stop token.
    """

    request: int
    id: int | None
    forced: bool = False
    logprob: float | None = None
    finish: str | None = None
    stop_id: int | None = None


class _Row:
    """One answer under way."""

    def __init__(self, request: int, prompt: Sequence[int], sampling: Sampling, tool: ForcedTokens | None, draw: int):
        self.request, self.sampling, self.tool = request, sampling, tool
        self.tokens = list(prompt)
        self.sampled = 0
        self.cached = 0  # tokens that the cache holds
        self.random = random.Random(f"{sampling.seed}/{draw}")
        self.copies: list[_Row] = []  # further answers to the same prompt, which wait for it to be read


class Engine:
    """Continues prompts with a model.

    Args:
        model: a `models.contract.LanguageModel`; its weights must not change while the engine is used.
        max_rows: answers under way at once.
        cache_tokens: bound on rows times tokens of the cache; None: `max_rows` rows of the longest window, and never
            less than one. Where it is reached, the youngest answers wait and are read again later.
        reuse: keep finished rows, so that a prompt which begins as one of them does is read from there on.
    """

    def __init__(self, model: Any, max_rows: int = 32, cache_tokens: int | None = None, reuse: bool = True):
        self.model, self.max_rows, self._reuse = model, max_rows, reuse
        self._context = max(model.config.windows) + 1
        self._cache_tokens = max(self._context, cache_tokens or max_rows * self._context)
        with torch.inference_mode():
            # One row more than is used: where two others are exchanged.
            self._cache = model.build_cache(2, min(64, self._context))
            decode = model.build_decoder()
            self._decode = CapturedDecoder(decode) if self._cache.can_be_captured else decode
        self._rows: list[_Row] = []
        self._decoding = 0
        self._finished: list[list[int]] = []  # the tokens in the slots behind the rows
        self._waiting: deque[_Row] = deque()
        self._requests = 0

    @property
    def busy(self) -> bool:
        """Whether an answer is under way or waits."""
        return bool(self._rows or self._waiting)

    def submit(
        self,
        prompt: Sequence[int],
        sampling: Sampling,
        tools: Sequence[ForcedTokens] | None = None,
        num_samples: int = 1,
    ) -> list[int]:
        """Queue `num_samples` answers to a prompt, which is read once; returns their request numbers.

        Args:
            prompt: at least one token (begin a text with BOS).
            tools: one for each answer.

        Raises:
            UserError: an empty prompt, one beyond the longest text, ids that the model does not know, no answers.
        """
        if not prompt:
            raise UserError("A prompt has no tokens; begin it at least with the BOS token.")
        longest = self.model.longest_text
        if longest is not None and len(prompt) > longest:
            raise UserError(
                f"A prompt has {len(prompt)} tokens, but the model knows the positions of {longest} only. Shorten it."
            )
        vocab_size = self.model.config.vocab_size
        if not 0 <= min(prompt) <= max(prompt) < vocab_size:
            raise UserError(
                f"A prompt has token ids from {min(prompt)} to {max(prompt)}; the model's are below {vocab_size}."
            )
        if num_samples < 1:
            raise UserError(f"The number of answers is {num_samples}; it must be at least 1.")
        rows = []
        for draw in range(num_samples):
            rows.append(_Row(self._requests, prompt, sampling, tools[draw] if tools else None, draw))
            self._requests += 1
        rows[0].copies = rows[1:]
        self._waiting.append(rows[0])
        return [row.request for row in rows]

    @torch.inference_mode()
    def cancel(self, request: int) -> None:
        """Forget an answer, wherever it is."""
        for row in [*self._rows, *self._waiting]:
            row.copies = [copy for copy in row.copies if copy.request != request]
        for row in [*self._rows, *self._waiting]:
            if row.request == request:
                if row in self._waiting:
                    self._waiting.remove(row)
                else:
                    self._leave(self._rows.index(row))
                if row.copies:  # the first of them reads the prompt now
                    first, *first.copies = row.copies
                    self._waiting.appendleft(first)

    @torch.inference_mode()
    def step(self) -> list[Token]:
        """Read a chunk of a prompt, continue every answer by a token; the new tokens."""
        self._admit()
        tokens = self._prefill()
        return tokens + self._decode_all()

    def generate(self, prompts: Sequence[Sequence[int]], sampling: Sampling, num_samples: int = 1) -> list[list[int]]:
        """`num_samples` answers to each prompt, without it; a prompt's place is added to the seed."""
        answers: dict[int, list[int]] = {}
        for i, prompt in enumerate(prompts):
            row = dataclasses.replace(sampling, seed=sampling.seed + i)
            answers |= {request: [] for request in self.submit(prompt, row, num_samples=num_samples)}
        for token in self.run():
            if token.id is not None:
                answers[token.request].append(token.id)
        return list(answers.values())

    def run(self) -> Iterator[Token]:
        """All tokens until nothing is left to do."""
        while self.busy:
            yield from self.step()

    def _admit(self) -> None:
        while self._waiting and len(self._rows) < self.max_rows:
            row = self._waiting[0]
            slot, finished = len(self._rows), self._finished
            kept = min(slot + len(finished) + 1, self.max_rows) if self._reuse else 0
            if not (kept > slot and self._room(kept, len(row.tokens))) and not self._room(slot + 1, len(row.tokens)):
                return
            self._waiting.popleft()
            if slot + len(finished) < self._cache.num_rows - 1:
                finished.append([])  # a slot that nobody has used
            shared = [self._shared(held, row.tokens) for held in finished]
            best = max(range(len(finished)), key=lambda i: shared[i])
            place = best
            if shared[best] < len(finished[best]):  # what another chat may go on from stays, and the oldest goes
                place = len(finished) - 1
                if shared[best]:
                    self._cache.copy_row(slot + best, slot + place)
            self._exchange(slot, slot + place)
            finished[place] = finished[0]
            finished.pop(0)
            row.cached = shared[best]
            self._cache.cut_row(slot, row.tokens[: row.cached])
            self._rows.append(row)

    def _shared(self, held: list[int], tokens: list[int]) -> int:
        """How many tokens of a finished row a prompt can go on from; its last one is read in any case."""
        shared = 0
        for ours, theirs in zip(held, tokens[:-1]):
            if ours != theirs:
                break
            shared += 1
        return shared if shared == len(held) or len(held) <= self._cache.ring else 0

    def _room(self, rows: int, length: int) -> bool:
        """Whether the cache has, or can be given, so many rows of so many tokens."""
        capacity = self._cache.capacity
        longest = min(max([length, *(row.cached for row in self._rows)]), self._context)
        if rows * capacity > self._cache_tokens > rows * longest:  # made for a longer text than there is now
            capacity = longest
            self._finished[:] = [[] for _ in self._finished]
        while capacity < longest:
            capacity = min(2 * capacity, self._context, max(longest, self._cache_tokens // rows))
        slots = self._cache.num_rows - 1
        if rows * capacity > self._cache_tokens:
            return False
        if capacity > self._cache.capacity:
            slots = max(rows, min(slots, self._cache_tokens // capacity))
        if rows > slots:
            queued = sum(1 + len(row.copies) for row in self._waiting) + sum(len(row.copies) for row in self._rows)
            wanted = max(rows, 2 * slots, len(self._rows) + queued)
            slots = min(wanted, self.max_rows, self._cache_tokens // capacity)
        if slots + 1 != self._cache.num_rows or capacity != self._cache.capacity:
            self._cache = self._cache.resized(slots + 1, capacity)
            del self._finished[max(0, slots - len(self._rows)) :]
        return True

    def _prefill(self) -> list[Token]:
        if self._decoding == len(self._rows):
            return []
        slot = self._decoding
        self._swap(slot, min(range(slot, len(self._rows)), key=lambda i: self._rows[i].request))
        row = self._rows[slot]
        chunk = row.tokens[row.cached : row.cached + PREFILL_TOKENS]
        self._make_room(row.cached + len(chunk))
        if row not in self._rows[slot : slot + 1]:  # it was the youngest, or others have moved
            return []
        ids = torch.tensor([chunk], device=self._cache.device)
        logits = self.model.forward(ids, cache=self._cache.rows(slot, slot + 1), last_only=True)[:, 0]
        row.cached += len(chunk)
        if row.cached < len(row.tokens):
            return []
        self._decoding += 1
        copies, row.copies, tokens = row.copies, [], []
        together = [row]
        for copy in copies:
            if len(self._rows) < self.max_rows and self._room(len(self._rows) + 1, row.cached + 1):
                self._join(copy, slot)
                together.append(copy)
            else:
                self._waiting.append(copy)
        for member, answer in zip(together, self._sample(together, logits.expand(len(together), -1))):
            tokens += self._take(member, *answer)
        return tokens

    def _join(self, copy: _Row, source: int) -> None:
        """Give a further answer to the prompt in slot `source` a row of its own, among those that decode."""
        last = len(self._rows)
        if self._finished:
            self._finished.pop(0)
        copy.cached = self._rows[source].cached
        self._rows.append(copy)
        self._swap(last, self._decoding, keep=False)
        self._cache.copy_row(source, self._decoding)
        self._decoding += 1

    def _decode_all(self) -> list[Token]:
        if self._decoding:
            self._make_room(1 + max(row.cached for row in self._rows[: self._decoding]))
        rows = self._rows[: self._decoding]
        if not rows:
            return []
        assert all(row.cached < len(row.tokens) for row in rows), "a token of each row waits to be read"
        ids = torch.tensor([[row.tokens[row.cached]] for row in rows], device=self._cache.device)
        logits = self._decode(ids, self._cache.rows(0, self._decoding))[:, 0]
        for row in rows:
            row.cached += 1
        read = [slot for slot, row in enumerate(rows) if row.cached == len(row.tokens)]  # no forced token waits there
        if len(read) < len(rows):
            rows, logits = [rows[slot] for slot in read], logits[read]
        if not rows:
            return []
        return [token for row, answer in zip(rows, self._sample(rows, logits)) for token in self._take(row, *answer)]

    def _sample(self, rows: list[_Row], logits: torch.Tensor) -> Iterator[tuple[int, float | None]]:
        settings = [row.sampling for row in rows]
        uniforms = [row.random.random() for row in rows]
        ids, logprobs = choose(logits, settings, [row.tokens for row in rows], uniforms)
        return zip(ids, logprobs)

    def _take(self, row: _Row, token: int, logprob: float | None) -> list[Token]:
        """Add a sampled token to its row, and what it forces; ends the row where it must."""
        sampling = row.sampling
        if row.sampled >= sampling.max_new_tokens:  # none was wanted
            self._leave(self._rows.index(row))
            return [Token(row.request, None, finish="length")]
        if token in sampling.stop_ids:
            self._leave(self._rows.index(row))
            return [Token(row.request, None, finish="stop", stop_id=token)]
        row.tokens.append(token)
        row.sampled += 1
        forced = list(row.tool.feed(token)) if row.tool else []
        row.tokens += forced
        full = self.model.longest_text is not None and len(row.tokens) > self.model.longest_text
        finish = "length" if full or row.sampled >= sampling.max_new_tokens else None
        tokens = [Token(row.request, token, False, logprob), *(Token(row.request, id, True) for id in forced)]
        if finish:
            tokens[-1] = tokens[-1]._replace(finish=finish)
            self._leave(self._rows.index(row))
        elif forced and self._decoding == 1:  # beside others, forced tokens are read one in each of their steps
            self._read_again(self._rows.index(row))
        return tokens

    def _read_again(self, slot: int) -> None:
        """A row with several tokens that the cache lacks is read like a prompt."""
        self._decoding -= 1
        self._swap(slot, self._decoding)

    def _make_room(self, length: int) -> None:
        """Give the rows `length` tokens, by sending away the youngest where there is too little."""
        while not self._room(len(self._rows), length):
            assert len(self._rows) > 1, "the cache holds at least one row of the context"
            youngest = max(range(len(self._rows)), key=lambda slot: self._rows[slot].request)
            row = self._rows[youngest]
            self._leave(youngest)
            row.cached = 0
            self._waiting.appendleft(row)

    def _leave(self, slot: int) -> None:
        """Take a row out; its tokens stay in the first slot behind the others."""
        row = self._rows[slot]
        if slot < self._decoding:
            self._decoding -= 1
            self._swap(slot, self._decoding, keep=self._reuse)
            slot = self._decoding
        self._swap(slot, len(self._rows) - 1, keep=self._reuse)
        self._rows.pop()
        self._finished.insert(0, row.tokens[: row.cached] if self._reuse else [])

    def _swap(self, one: int, other: int, keep: bool = True) -> None:
        if one != other:
            self._exchange(one, other, keep)
            self._rows[one], self._rows[other] = self._rows[other], self._rows[one]

    def _exchange(self, one: int, other: int, keep: bool = True) -> None:
        """Exchange what two slots of the cache hold; without `keep`, what `one` held is lost."""
        if one != other:
            spare = self._cache.num_rows - 1
            if keep:
                self._cache.copy_row(one, spare)
            self._cache.copy_row(other, one)
            if keep:
                self._cache.copy_row(spare, other)
