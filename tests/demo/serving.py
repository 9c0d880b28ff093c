"""A real `python serve.py` in a process of its own, on a port that the system chooses."""

import os
import re
import signal
import time
from pathlib import Path
from typing import Any

import openai

from tests.forks import REPOSITORY, Program

PATIENCE_SECONDS = 60


def is_alive(pid: int) -> bool:
    """Whether a process is there and has not ended."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


class Server:
    """A server that answers.

    Args:
        arguments: of serve.py.

    Attributes:
        port, url: where it listens.
        output: the file with what it prints.
    """

    def __init__(self, runs: Path, *arguments: str, api_key: str | None = None):
        self.output = runs / "serve.log"
        self._key = api_key or "none"
        self.output.write_text("")  # not what an earlier one has said
        self.process = Program(
            ["serve.py", "port=0", *arguments, *([f"api_key={api_key}"] if api_key else [])],
            os.environ | {"NANOCHAT_PL_RUNS": str(runs), "OMP_NUM_THREADS": "1", "PYTHONPATH": str(REPOSITORY)},
            *(os.devnull, self.output, self.output),
        )
        self.port = self._find_port()
        self.url = f"http://127.0.0.1:{self.port}"
        self.http = openai.DefaultHttpxClient(base_url=self.url, trust_env=False, timeout=PATIENCE_SECONDS)
        try:
            self.wait(lambda: self.health()["status"] == "ok")
        except BaseException:
            self.kill()
            raise

    def _find_port(self) -> int:
        while not (match := re.search(r"API: http://[^ ]*:(\d+)/v1", self.output.read_text())):
            if self.process.poll() is not None:
                raise AssertionError(f"the server ended with {self.process.returncode}: {self.output.read_text()}")
            time.sleep(0.05)
        return int(match[1])

    def health(self) -> dict[str, Any]:
        return self.http.get("/health").json()

    def wait(self, condition: Any) -> None:
        """Until the condition holds."""
        began = time.monotonic()
        while not condition():
            assert time.monotonic() - began < PATIENCE_SECONDS, self.output.read_text()
            time.sleep(0.05)

    def client(self, **options: Any) -> openai.OpenAI:
        """The official client, which neither retries nor goes through a proxy."""
        http = openai.DefaultHttpxClient(trust_env=False, timeout=PATIENCE_SECONDS)
        options = {"api_key": self._key, "max_retries": 0} | options
        return openai.OpenAI(base_url=f"{self.url}/v1", http_client=http, **options)

    def workers(self) -> list[int]:
        """The processes with a model."""
        children = Path(f"/proc/{self.process.pid}/task/{self.process.pid}/children").read_text().split()
        return [int(pid) for pid in children if b"spawn_main" in Path(f"/proc/{pid}/cmdline").read_bytes()]

    def end(self, kind: signal.Signals = signal.SIGTERM) -> int:
        """Send a signal; the exit code."""
        self.process.send_signal(kind)
        return self.process.wait(PATIENCE_SECONDS)

    def kill(self) -> None:
        self.http.close()
        self.process.kill()
        self.process.wait(PATIENCE_SECONDS)
