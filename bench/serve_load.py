"""What a running server takes: python bench/serve_load.py [--depth 4]

Clients ask serve.py for streamed completions of different prompts and lengths, each the next as soon as the last one is
complete: tokens per second of 16 beside one, and beside the engine alone with 16 rows; the wait for the first token
alone, with 8 and with 16 that come at the same moment; the memory of all processes over 2,000 requests; and the seconds
from the start of serve.py to its first answer.
"""

import argparse
import asyncio
import json
import os
import random
import socket
import statistics
import time
from collections.abc import Iterator, Sequence
from contextlib import closing
from pathlib import Path
from typing import NamedTuple

from corpus import build_corpus, build_tokenizer, training_overrides
from engine_side import Request
from timing import ROOT, Child, Row, Worker, environment, print_table, scratch

VOCAB_SIZE = 8192
CLIENTS = 16
PROMPT_TOKENS = 80
MEMORY_REQUESTS = 2000
MEMORY_EVERY = 200


class Answer(NamedTuple):
    """What a client saw: seconds to the first text, and the tokens."""

    first_seconds: float
    tokens: int


class Server:
    """A running serve.py and what it is asked."""

    def __init__(self, folder: Path, model: Path, threads: int | None):
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port = free.getsockname()[1]
        env = environment(folder, threads)
        arguments = ["serve.py", f"model={model}", f"port={self.port}", f"max_rows={CLIENTS}", "max_queue=1000"]
        self.child = Child([*arguments], env, folder / "serve.log")
        self.close = self.child.close

    def seconds_to_first_answer(self) -> float:
        """From the start of the process, asking again and again."""
        while True:
            try:
                asyncio.run(self.ask(([300], 1)))
                return self.child.age()
            except OSError:
                if self.child.process.poll() is not None:
                    raise self.child.failure() from None
                time.sleep(0.02)

    async def ask(self, request: Request) -> Answer:
        """Stream one answer to its end."""
        prompt, new_tokens = request
        asked = {"prompt": prompt, "max_tokens": new_tokens, "stream": True, "stream_options": {"include_usage": True}}
        body = json.dumps(asked).encode()
        fields = f"Host: localhost\r\nConnection: close\r\nContent-Length: {len(body)}"
        head = f"POST /v1/completions HTTP/1.1\r\n{fields}\r\n\r\n"
        began = time.perf_counter()
        reader, writer = await asyncio.open_connection("127.0.0.1", self.port)
        writer.write(head.encode() + body)
        status = await reader.readline()
        assert b" 200 " in status, status
        first, events = 0.0, [b""]
        async for line in reader:
            if line.startswith(b"data: {"):
                first = first or time.perf_counter() - began
                events[0] = line
        writer.close()
        return Answer(first, json.loads(events[0][6:])["usage"]["completion_tokens"])

    def answer(self, requests: Sequence[Request], clients: int) -> tuple[float, list[Answer]]:
        """Tokens per second, and what the clients saw."""
        waiting, answers = list(reversed(requests)), []

        async def client() -> None:
            while waiting:
                answers.append(await self.ask(waiting.pop()))

        async def all_clients() -> None:
            await asyncio.gather(*(client() for _ in range(clients)))

        began = time.perf_counter()
        asyncio.run(all_clients())
        return sum(answer.tokens for answer in answers) / (time.perf_counter() - began), answers

    def resident_bytes(self) -> int:
        """Of the server and its workers."""
        pid = self.child.process.pid
        children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
        pages = [int(Path(f"/proc/{each}/statm").read_text().split()[1]) for each in (str(pid), *children)]
        return sum(pages) * os.sysconf("SC_PAGE_SIZE")


def build_requests(count: int, new_tokens: int, seed: int) -> list[Request]:
    """Different prompts, and lengths between half and one and a half of `new_tokens`."""
    draw = random.Random(seed)
    lengths = [draw.randint(new_tokens // 2, 3 * new_tokens // 2) for _ in range(count)]
    return [([draw.randrange(300, VOCAB_SIZE - 9) for _ in range(PROMPT_TOKENS)], length) for length in lengths]


def save_model(folder: Path, depth: int) -> Path:
    """The folder of a model with random weights and a tokenizer of VOCAB_SIZE tokens."""
    from nanochat_pl.checkpoint.model_folder import save_model_folder
    from nanochat_pl.models.contract import build_model
    from nanochat_pl.models.depth import NanoChatSpec
    from nanochat_pl.tokenizers.load import load_tokenizer

    train, val = build_corpus(folder, 2000, 2500)
    build_tokenizer(training_overrides(train, val, VOCAB_SIZE), folder / "tokenizer")
    config = NanoChatSpec(depth=depth, sequence_len=1024).config(VOCAB_SIZE)
    target = folder / "served/sft"
    save_model_folder(target, build_model(config, "cpu", 0), config, load_tokenizer(folder / "tokenizer"), {}, "sft")
    return target


def measure(options: argparse.Namespace, folder: Path) -> Iterator[Row]:
    """The comparisons; in each repetition all loads take turns."""
    model = save_model(folder, options.depth)
    with closing(Server(folder, model, options.threads)) as server:
        yield Row("start of serve.py to its first answer", "s", None, server.seconds_to_first_answer(), limit=15)
        engine = [str(ROOT / "bench/engine_side.py"), str(model), str(CLIENTS)]
        with closing(Worker(engine, environment(folder, options.threads), folder / "engine.log")) as bare:
            bare.answer()
            yield from loads(options, server, bare)
        seen = []
        for turn in range(MEMORY_REQUESTS // MEMORY_EVERY):
            server.answer(build_requests(MEMORY_EVERY, 16, seed=1000 + turn), CLIENTS)
            seen.append(server.resident_bytes() / 1e6)
        sizes = ", ".join(f"{megabytes:.0f}" for megabytes in seen)
        print(f"resident MB after each {MEMORY_EVERY} of {MEMORY_REQUESTS:,} requests: {sizes}")


def loads(options: argparse.Namespace, server: Server, bare: Worker) -> Iterator[Row]:
    """Speeds, and waits for the first token."""
    speeds: dict[str, list[float]] = {"one": [], "many": [], "bare": []}
    waits: dict[str, list[float]] = {"one": [], "half": [], "burst": []}
    for turn in range(options.repetitions):
        many = build_requests(CLIENTS * options.requests, options.new_tokens, seed=turn)
        speed, answers = server.answer(many[: options.requests], 1)
        speeds["one"].append(speed)
        waits["one"] += [answer.first_seconds for answer in answers]
        speeds["many"].append(server.answer(many, CLIENTS)[0])
        speeds["bare"].append(bare.ask(many))
        _, answers = server.answer(many[len(many) // 2 :], CLIENTS // 2)
        waits["half"] += [answer.first_seconds for answer in answers]
        _, answers = server.answer(many[:CLIENTS], CLIENTS)
        waits["burst"] += [answer.first_seconds for answer in answers]
        print({name: [round(x, 1) for x in values] for name, values in speeds.items()}, flush=True)
    one, sixteen, alone = (statistics.median(speeds[name]) for name in ("one", "many", "bare"))
    yield Row(f"{CLIENTS} clients beside one", "tok/s", one, sixteen, goal=4)
    yield Row(f"{CLIENTS} clients beside the engine alone", "tok/s", alone, sixteen, goal=0.85)
    first, half, burst = (1000 * statistics.median(waits[name]) for name in ("one", "half", "burst"))
    yield Row(f"first token, {CLIENTS // 2} clients beside one", "ms", first, half, more_is_better=False, goal=3)
    yield Row(f"first token, {CLIENTS} at once beside one", "ms", first, burst, more_is_better=False, goal=10)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--depth", type=int, default=4, help="of the model")
    parser.add_argument("--repetitions", type=int, default=3)
    parser.add_argument("--requests", type=int, default=4, help="of each client in one turn")
    parser.add_argument("--new-tokens", type=int, default=96, help="of an answer, on average")
    parser.add_argument("--threads", type=int, help="torch threads; default: torch's choice")
    options = parser.parse_args()
    rows = []
    with scratch() as folder:
        os.environ |= {key: value for key, value in environment(folder).items() if key.startswith("NANOCHAT_PL")}
        for row in measure(options, folder):
            print("  ".join(row.cells()), flush=True)
            rows.append(row)
    print_table("Serving", "beside", rows)


if __name__ == "__main__":
    main()
