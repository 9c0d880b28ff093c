"""The engine alone under a load of requests, for bench/serve_load.py: a worker that answers them when asked."""

import sys
import time
from collections.abc import Sequence

from timing import serve

from nanochat_pl.checkpoint.model_folder import load_model_folder
from nanochat_pl.inference.engine import Engine
from nanochat_pl.inference.sampling import Sampling

Request = tuple[list[int], int]
"""A prompt and how many tokens to sample."""


class Answering:
    """As many requests as there are rows are under way at once; where one ends the next begins."""

    def __init__(self, folder: str, rows: int):
        self.rows = rows
        self.engine = Engine(load_model_folder(folder).model, max_rows=rows)

    def __call__(self, requests: Sequence[Request]) -> float:
        """Sampled tokens per second over all of them."""
        began, tokens = time.perf_counter(), 0
        waiting = list(reversed(requests))
        for _ in range(self.rows):
            self._begin(waiting)
        while self.engine.busy:
            for token in self.engine.step():
                tokens += token.id is not None
                if token.finish:
                    self._begin(waiting)
        return tokens / (time.perf_counter() - began)

    def _begin(self, waiting: list[Request]) -> None:
        if waiting:
            prompt, new_tokens = waiting.pop()
            self.engine.submit(prompt, Sampling(new_tokens, seed=len(waiting)))


if __name__ == "__main__":
    serve(Answering(sys.argv[1], int(sys.argv[2])))
