"""A small server on this machine that takes what W&B's client sends, or fails as a server does."""

import contextlib
import gzip
import http.server
import json
import threading
from collections.abc import Iterator
from typing import Any


class WandbServer(http.server.ThreadingHTTPServer):
    """Keeps the history's lines at their offsets, as W&B's does.

    Attributes:
        url: for WANDB_BASE_URL.
        lines: of the history of a run.
        runs: the variables of the requests that made or changed a run, by its id.
        alerts: their variables.
        artifacts: (run's id, artifact's name) that were made.
        used: the same of those that a run began with.
        is_broken: every request is answered with status 500.
    """

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.url = f"http://127.0.0.1:{self.server_port}"
        self.lines: dict[int, dict[str, Any]] = {}
        self.runs: dict[str, dict[str, Any]] = {}
        self.alerts: list[dict[str, Any]] = []
        self.artifacts: list[tuple[str, str]] = []
        self.used: list[tuple[str, str]] = []
        self.is_broken = False
        self.refused = 0

    def answer(self, operation: str, variables: dict[str, Any]) -> dict[str, Any]:
        """The data of an answer to a GraphQL request."""
        name = variables.get("project") or "nanochat-pl"
        project = {"id": name, "name": name, "entity": {"id": "entity", "name": "someone"}}
        if operation == "RunResumeStatus":
            return {"model": project | {"bucket": self._bucket(variables["name"])}}
        if operation == "UpsertBucket":
            is_new = variables["name"] not in self.runs
            self.runs[variables["name"]] = self.runs.get(variables["name"], {}) | {
                name: value for name, value in variables.items() if value is not None
            }
            bucket: Any = self._bucket(variables["name"])
            return {"upsertBucket": {"bucket": bucket | {"project": project}, "inserted": is_new}}
        if operation == "CreateRunFiles":
            files = [{"name": name, "uploadUrl": f"{self.url}/upload/{name}"} for name in variables["files"]]
            return {"createRunFiles": {"runID": "id", "uploadHeaders": [], "files": files}}
        if operation == "NotifyScriptableRunAlert":
            self.alerts.append(variables)
            return {"notifyScriptableRunAlert": {"success": True}}
        if operation == "Viewer":
            return {"viewer": {"id": "someone", "entity": "someone", "username": "someone", "flags": "{}"}}
        if operation == "CreateArtifact":
            name = variables["input"]["artifactCollectionName"]
            self.artifacts.append((variables["input"]["runName"], name))
            # As if it had the same files already: nothing is uploaded.
            latest = {"id": name, "versionIndex": 0}
            own = {"id": name, "state": "COMMITTED", "artifactSequence": {"id": name, "latestArtifact": latest}}
            return {"createArtifact": {"artifact": own}}
        if operation == "UseArtifact":
            self.used.append((variables["runName"], variables["artifactID"]))
            return {"useArtifact": {"artifact": {"id": variables["artifactID"]}}}
        if "ArtifactType" in operation:
            return {"project": None}
        return {}

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that ends closes its connections as it likes."""

    def _bucket(self, run: str) -> dict[str, Any] | None:
        if run not in self.runs:
            return None
        tail = [json.dumps(self.lines[max(self.lines)])] if self.lines else []
        return {
            "id": "id", "name": run, "displayName": run, "description": None, "sweepName": None, "config": "{}",
            "summaryMetrics": "{}", "tags": [], "notes": None, "wandbConfig": '{"t": 1}', "logLineCount": 0,
            "eventsLineCount": 0, "eventsTail": "[]",
            "historyLineCount": len(self.lines), "historyTail": json.dumps(tail),
        }  # fmt: skip


class _Handler(http.server.BaseHTTPRequestHandler):
    server: WandbServer
    protocol_version = "HTTP/1.1"

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers.get("content-length") or 0))
        if self.headers.get("content-encoding") == "gzip":
            body = gzip.decompress(body)
        answer: Any = {}
        if self.server.is_broken:
            self.server.refused += 1
        elif self.path == "/graphql":
            request = json.loads(body)
            answer = {
                "data": self.server.answer(
                    request.get("operationName") or request["query"], request.get("variables") or {}
                )
            }
        elif self.path.endswith("/file_stream"):
            history = json.loads(body).get("files", {}).get("wandb-history.jsonl", {"offset": 0, "content": []})
            for number, line in enumerate(history["content"], history["offset"]):
                self.server.lines[number] = json.loads(line)
        text = json.dumps(answer).encode()
        self.send_response(500 if self.server.is_broken else 200)
        self.send_header("content-type", "application/json")
        self.send_header("content-length", str(len(text)))
        self.end_headers()
        self.wfile.write(text)

    do_PUT = do_GET = do_POST

    def log_message(self, *_: Any) -> None:
        """Not to the tests' output."""


@contextlib.contextmanager
def wandb_server() -> Iterator[WandbServer]:
    """Such a server while inside."""
    with WandbServer() as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield server
        server.shutdown()
