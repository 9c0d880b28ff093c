"""A small Hugging Face hub over a folder, on loopback, with the faults of the real one, for the real client libraries.

    with HubServer(folder) as hub, hub_client(hub, tmp_path):      # tests.hub_client; `hub_environment` for a process
        load_dataset("org/name", streaming=True)

It answers what `datasets` and `huggingface_hub` ask of a repository, of data or of a model: its information, tree,
paths and refs under /api/datasets/ or /api/models/, its files under .../resolve/ with ETag, X-Repo-Commit, LFS size and
sha256, and ranges.
"""

import contextlib
import fnmatch
import json
import re
import socket
import sys
import threading
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from socketserver import TCPServer
from typing import Literal
from urllib.parse import parse_qs, unquote, urlencode, urlsplit

from tests.hub_repository import DATE, Commit, Repository

Fault = Literal["truncate", "drop", "wrong", "html", "429", "500"]

HTML_PAGE = b"<!DOCTYPE html>\n<html><body><h1>502 Bad Gateway</h1><p>The mirror is busy.</p></body></html>\n"
_OTHER_BYTES = bytes(255 - byte for byte in range(256))
_CHUNK_BYTES = 1 << 16

_FILE = re.compile(r"(?:/datasets)?/([^/]+/[^/]+)/resolve/([^/]+)/(.+)")
_API = re.compile(
    r"/api/(?:datasets|models)/([^/]+/[^/]+)(?:/(revision|tree|paths-info|refs|commits)(?:/([^/]+)(?:/(.+))?)?)?/?"
)

Query = dict[str, list[str]]


@dataclass
class Request:
    """One request that was answered; `bytes` of the answer's body were sent."""

    method: str
    path: str
    status: int
    bytes: int = 0


@dataclass
class _Answer:
    body: bytes
    headers: dict[str, str]
    status: int = 200
    cut: int | None = None
    """Where set, the connection is closed when so much of the body is sent."""


class _Refused(Exception):
    """An error answer, with the code by which the clients tell them apart."""

    def __init__(self, status: int, code: str, message: str, headers: dict[str, str] | None = None):
        super().__init__(message)
        self.answer = _json({"error": message}, {"X-Error-Code": code, "X-Error-Message": message}, status)
        self.answer.headers |= headers or {}


@dataclass
class _Rule:
    pattern: str
    kind: Fault
    times: int | None
    retry_after: int


@dataclass
class HubServer:
    """The repositories root/ORG/NAME/..., served while the `with` block runs.

    Commits are hashes of a repository's content; when its files change, "main" moves to a new commit and the old ones
    stay readable.

    Attributes:
        private, gated: repositories that need a token; a private one is hidden altogether, a gated one hides its files.
        readers: the tokens that may read them; without a token the answer is 401, with another one 403.
        page_size: entries of a tree in one answer.
        requests: all that was asked, in order.
    """

    root: Path
    private: set[str] = field(default_factory=set)
    gated: set[str] = field(default_factory=set)
    readers: set[str] = field(default_factory=set)
    page_size: int = 1000
    requests: list[Request] = field(default_factory=list)

    def __post_init__(self) -> None:
        self._lock = threading.Lock()
        self._rules: list[_Rule] = []
        self._repositories: dict[str, Repository] = {}
        self._server = _Server(self, 0)
        self._port, self._is_up = self._server.server_address[1], False

    def __enter__(self) -> "HubServer":
        self.up()
        return self

    def __exit__(self, *exception: object) -> None:
        self.down()
        self._server.server_close()

    @property
    def url(self) -> str:
        """What HF_ENDPOINT must say."""
        return f"http://127.0.0.1:{self._port}"

    def commit(self, repo: str) -> str:
        """The commit that "main" is at."""
        return self._commit(repo, "main").sha

    def fail(self, pattern: str, kind: Fault, times: int | None = None, retry_after: int = 0) -> None:
        """Spoil the next `times` answers (None: all of them) about names that match `pattern`.

        A file is matched by its name, its path in the repository and ORG/NAME/path; anything else by its path on the
        server ("api/datasets/ORG/NAME/tree/main").

        Args:
            kind: "truncate": the first half of the file, as if it were all; "drop": the connection is lost when half
                of the file is sent; "wrong": the second quarter of the bytes is other ones; "html": a page with status
                200; "429", "500": that status. The first four count GET requests, and a HEAD shows the right size (and
                the truncated one where a GET would).
            retry_after: seconds that a 429 asks for.
        """
        with self._lock:
            self._rules.append(_Rule(pattern, kind, times, retry_after))

    def heal(self) -> None:
        """Forget all faults."""
        with self._lock:
            self._rules.clear()

    def down(self) -> None:
        """Close all connections and refuse new ones."""
        if self._is_up:
            self._is_up = False
            self._server.shutdown()
            self._server.server_close()
            self._server.close_connections()
            self._server = _Server(self, self._port)  # does not listen yet, but nobody else can take the port

    def up(self) -> None:
        """Accept connections again, on the same port."""
        if not self._is_up:
            self._is_up = True
            self._server.server_activate()
            threading.Thread(target=self._server.serve_forever, args=(0.01,), name="hub", daemon=True).start()

    def answer(self, method: str, url: str, token: str | None, form: Query) -> _Answer:
        """The answer to one request, faults included."""
        path = urlsplit(url).path
        name = unquote(path).lstrip("/")
        try:
            if match := _FILE.fullmatch(path):
                repo, revision, file = map(unquote, match.groups())
                name = f"{repo}/{file}"
                answer = self._file(repo, revision, file, token)
            elif match := _API.fullmatch(path):
                repo, what, revision, folder = (unquote(part or "") for part in match.groups())
                self._check_access(repo, token, self.private)
                answer = self._about(repo, what, revision or "main", folder, url, form)
            else:
                raise _Refused(404, "NotFound", "There is nothing here")
        except _Refused as refused:
            answer = refused.answer
        rule = self._next_rule(name, method)
        return _spoiled(answer, rule, method) if rule else answer

    def record(self, request: Request) -> None:
        with self._lock:
            self.requests.append(request)

    def _file(self, repo: str, revision: str, path: str, token: str | None) -> _Answer:
        self._check_access(repo, token, self.private)
        self._check_access(repo, token, self.gated)
        commit = self._commit(repo, revision)
        headers = {"X-Repo-Commit": commit.sha}
        if path not in commit:
            raise _Refused(404, "EntryNotFound", "Entry not found", headers)
        blob = commit[path]
        headers |= {
            "Accept-Ranges": "bytes",
            "Content-Type": "application/octet-stream",
            "Content-Disposition": f'inline; filename="{path.rsplit("/", 1)[-1]}";',
            "ETag": f'"{blob.sha256 or blob.oid}"',
        }
        if blob.sha256:
            headers |= {"X-Linked-Size": str(len(blob.content)), "X-Linked-ETag": f'"{blob.sha256}"'}
        return _Answer(blob.content, headers)

    def _about(self, repo: str, what: str, revision: str, folder: str, url: str, form: Query) -> _Answer:
        commit = self._commit(repo, revision)
        query = parse_qs(urlsplit(url).query) | form
        if what == "refs":
            main = {"name": "main", "ref": "refs/heads/main", "targetCommit": self.commit(repo)}
            return _json({"branches": [main], "converts": [], "tags": []})
        if what == "commits":
            return _json([{"id": commit.sha, "title": "data", "message": "", "authors": [], "date": DATE}])
        expand, recursive = (query.get(name) in (["true"], ["True"]) for name in ("expand", "recursive"))
        if what == "tree":
            entries = commit.tree(folder, recursive, expand)
            if folder and not entries:
                raise _Refused(404, "EntryNotFound", f"{folder} does not exist")
            return self._page(entries, url)
        if what == "paths-info":
            wanted = query.get("paths", [])
            return _json([entry for entry in commit.tree("", True, expand) if entry["path"] in wanted])
        siblings = [blob.sibling(path) for path, blob in commit.items()]
        if "blobs" not in query:
            siblings = [{"rfilename": path} for path in commit]
        about = {"id": repo, "author": repo.split("/")[0], "sha": commit.sha, "lastModified": DATE, "tags": []}
        access = {"private": repo in self.private, "gated": "manual" if repo in self.gated else False}
        return _json(about | access | {"siblings": siblings})

    def _page(self, entries: list[dict], url: str) -> _Answer:
        parts = urlsplit(url)
        query = parse_qs(parts.query)
        start = int(query.pop("cursor", ["0"])[0])
        stop = start + self.page_size
        headers = {}
        if stop < len(entries):
            following = urlencode(query | {"cursor": [str(stop)]}, doseq=True)
            headers["Link"] = f'<{self.url}{parts.path}?{following}>; rel="next"'
        return _json(entries[start:stop], headers)

    def _check_access(self, repo: str, token: str | None, hidden: set[str]) -> None:
        if repo not in hidden or token in self.readers:
            return
        if hidden is self.gated:
            raise _Refused(403 if token else 401, "GatedRepo", f"Access to dataset {repo} is restricted.")
        if token:
            raise _Refused(403, "Forbidden", f"This token may not read {repo}")
        raise _Refused(401, "RepoNotFound", "Repository not found")

    def _commit(self, repo: str, revision: str) -> Commit:
        with self._lock:
            if not (self.root / repo).is_dir():
                raise _Refused(404, "RepoNotFound", "Repository not found")
            repository = self._repositories.setdefault(repo, Repository(repo, self.root / repo))
        commit = repository.commit(revision)
        if commit is None:
            raise _Refused(404, "RevisionNotFound", f"Invalid rev id: {revision}")
        return commit

    def _next_rule(self, name: str, method: str) -> _Rule | None:
        """The oldest fault in force for this name; counted down where this request uses it up."""
        spellings = {name} if name.startswith("api/") else {name, name.split("/", 2)[-1], name.rsplit("/", 1)[-1]}
        with self._lock:
            for rule in self._rules:
                if rule.times != 0 and any(fnmatch.fnmatchcase(spelling, rule.pattern) for spelling in spellings):
                    if rule.times is not None and (method != "HEAD" or rule.kind in ("429", "500")):
                        rule.times -= 1
                    return rule
        return None


def _spoiled(answer: _Answer, rule: _Rule, method: str) -> _Answer:
    half = len(answer.body) // 2
    if rule.kind == "429":
        return _json({"error": "Too many requests"}, {"Retry-After": str(rule.retry_after)}, 429)
    if rule.kind == "500":
        return _json({"error": "Internal error"}, status=500)
    if rule.kind == "html":
        return _Answer(HTML_PAGE, {"Content-Type": "text/html"}) if method == "GET" else answer
    if rule.kind == "drop":
        answer.cut = half
    elif rule.kind == "truncate":
        answer.body = answer.body[:half]
        if "X-Linked-Size" in answer.headers:
            answer.headers["X-Linked-Size"] = str(half)
    else:
        quarter = half // 2
        answer.body = answer.body[:quarter] + answer.body[quarter:half].translate(_OTHER_BYTES) + answer.body[half:]
    return answer


def _ranged(answer: _Answer, wanted: str | None) -> _Answer:
    """The part that a Range header asks for, where the answer is a file."""
    match = re.fullmatch(r"bytes=(\d*)-(\d*)", wanted or "")
    if match is None or match.groups() == ("", "") or "Accept-Ranges" not in answer.headers:
        return answer
    size = len(answer.body)
    first, last = match.groups()
    start = int(first) if first else max(0, size - int(last))
    stop = min(size, int(last) + 1) if first and last else size
    if start >= size:
        return _json({"error": "Range Not Satisfiable"}, {"Content-Range": f"bytes */{size}"}, 416)
    headers = answer.headers | {"Content-Range": f"bytes {start}-{stop - 1}/{size}"}
    cut = None if answer.cut is None else max(0, answer.cut - start)
    return _Answer(answer.body[start:stop], headers, 206, cut)


def _json(value: object, headers: dict[str, str] | None = None, status: int = 200) -> _Answer:
    body = json.dumps(value).encode()
    return _Answer(body, {"Content-Type": "application/json; charset=utf-8"} | (headers or {}), status)


class _Server(ThreadingHTTPServer):
    """Bound at once, listening after `server_activate`; knows its open connections."""

    def __init__(self, hub: HubServer, port: int):
        super().__init__(("127.0.0.1", port), _Handler, bind_and_activate=False)
        self.hub = hub
        self._connections: set[socket.socket] = set()
        self._lock = threading.Lock()
        self.server_bind()

    def server_bind(self) -> None:
        TCPServer.server_bind(self)  # HTTPServer's looks up the machine's name, which can take seconds

    def opened(self, connection: socket.socket) -> None:
        with self._lock:
            self._connections.add(connection)

    def closed(self, connection: socket.socket) -> None:
        with self._lock:
            self._connections.discard(connection)

    def close_connections(self) -> None:
        with self._lock:
            for connection in self._connections:
                _hang_up(connection)

    def handle_error(self, request: object, client_address: object) -> None:
        if not isinstance(sys.exception(), ConnectionError):
            super().handle_error(request, client_address)  # type: ignore[arg-type]


class _Handler(BaseHTTPRequestHandler):
    server: _Server
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True

    def setup(self) -> None:
        super().setup()
        self.server.opened(self.connection)

    def finish(self) -> None:
        self.server.closed(self.connection)
        with contextlib.suppress(ConnectionError):
            super().finish()

    def _serve(self) -> None:
        token = (self.headers.get("Authorization") or "").removeprefix("Bearer ") or None
        form = parse_qs(self.rfile.read(int(self.headers.get("Content-Length") or 0)).decode())
        answer = _ranged(self.server.hub.answer(self.command, self.path, token, form), self.headers.get("Range"))
        request = Request(self.command, self.path, answer.status)
        self.server.hub.record(request)
        self.send_response(answer.status)
        for name, value in (answer.headers | {"Content-Length": str(len(answer.body))}).items():
            self.send_header(name, value)
        self.end_headers()
        if self.command == "HEAD":
            return
        body = answer.body[: answer.cut]
        for start in range(0, len(body), _CHUNK_BYTES):
            chunk = body[start : start + _CHUNK_BYTES]
            request.bytes += len(chunk)
            self.wfile.write(chunk)
        if answer.cut is not None and answer.cut < len(answer.body):
            self.close_connection = True
            _hang_up(self.connection)

    do_GET = do_HEAD = do_POST = _serve

    def log_message(self, format: str, *arguments: object) -> None:
        pass


def _hang_up(connection: socket.socket) -> None:
    with contextlib.suppress(OSError):
        connection.shutdown(socket.SHUT_RDWR)
