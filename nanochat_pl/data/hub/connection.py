"""Requests to the hub that outlast a busy server and a lost connection, and its refusals in words that help."""

import contextlib
import email.utils
import functools
import logging
import random
import re
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, TypeVar

from filelock import FileLock, Timeout

from nanochat_pl.core.errors import MachineError, UserError, nearest
from nanochat_pl.data.hub.files import HubFile, HubIndex
from nanochat_pl.data.parquet import BadShard, first_line

log = logging.getLogger("nanochat_pl.data")

T = TypeVar("T")

FIRST_SECONDS = 15.0
"""How long a hub that was not reached yet is tried."""

LOST_SECONDS = 3600.0
"""How long a hub that was there may give nothing before the run stops."""

_LONGEST_WAIT_SECONDS = 30.0
_BUSY = (408, 425, 429, 500, 502, 503, 504)


class Connection:
    """Repeats what fails for want of a connection, with growing, random waits; a lost one is warned of once a minute.

    Shared by threads: what one of them has reached or warned of counts for all.
    """

    def __init__(self) -> None:
        self._reached = False
        self._next_warning = 0.0
        self._lock = threading.Lock()
        self._closed = threading.Event()

    def close(self) -> None:
        """Nobody reads any more: whoever waits gives up."""
        self._closed.set()

    def check_open(self) -> None:
        """Raise `MachineError` once it is closed."""
        if self._closed.is_set():
            raise MachineError("The data were closed while they were being read.")

    def pause(self, seconds: float) -> None:
        """Wait; raises `MachineError` once it is closed."""
        self._closed.wait(seconds)
        self.check_open()

    @contextlib.contextmanager
    def alone(self, lock: Path) -> Iterator[None]:
        """Inside is only one thread of one process at a time; raises `MachineError` once it is closed."""
        lock.parent.mkdir(parents=True, exist_ok=True)
        held = FileLock(lock)
        while True:
            self.check_open()
            try:
                held.acquire(timeout=1.0)
                break
            except Timeout:
                continue
        try:
            yield
        finally:
            held.release()

    def run(self, action: Callable[[], T], what: str, progress: Callable[[], int] = lambda: 0) -> T:
        """What `action` returns; its errors that have nothing to do with the connection are passed on.

        Args:
            what: is asked for, as the messages put it.
            progress: grows when a failed try has brought a part of it, and so the next one goes on.

        Raises:
            MachineError: the hub gave nothing for too long; it was closed.
        """
        _quiet()
        lost_since: float | None = None
        wait, most = 0.5, progress()
        while True:
            self.check_open()
            try:
                result = action()
            except Exception as error:
                if not is_connection_error(error):
                    raise
                answered, there = hasattr(error, "response"), progress()
                self._reached = self._reached or answered or there > most
                if there > most:
                    lost_since, wait, most = None, 0.5, there
                lost_since = lost_since or time.monotonic()
                self._check_patience(error, what, time.monotonic() - lost_since, answered)
                asked = min(retry_after_seconds(error), LOST_SECONDS)
                self._closed.wait(max(wait * random.uniform(0.5, 1.0), asked))
                wait = min(2 * wait, _LONGEST_WAIT_SECONDS)
            else:
                if lost_since and time.monotonic() - lost_since > 60:
                    log.info("The connection is back: %s.", what)
                self._reached = True
                return result

    def _check_patience(self, error: Exception, what: str, seconds: float, answered: bool) -> None:
        if is_offline(error):
            raise MachineError(
                f"{what} is not in the cache, and HF_HUB_OFFLINE forbids to ask for it. Unset it, or fetch the data "
                "first where there is a network."
            ) from error
        if seconds >= (LOST_SECONDS if self._reached else FIRST_SECONDS):
            state = "answers, but is too busy" if answered else "cannot be reached"
            raise MachineError(
                f"The hub {state} for {what} ({first_line(error)}; tried for {seconds:.0f} s), and it is not in the "
                "cache. Check the network and HF_ENDPOINT, and run the same command again; or point data.path to a "
                "local copy."
            ) from error
        with self._lock:
            if time.monotonic() < self._next_warning:
                return
            self._next_warning = time.monotonic() + 60
        log.warning("No answer from the hub for %s (%s). Trying again until there is.", what, first_line(error))


@functools.cache
def _quiet() -> None:
    """`huggingface_hub` draws no bars, and does not warn about each single try."""
    from huggingface_hub.utils import disable_progress_bars
    from huggingface_hub.utils.logging import set_verbosity_error

    disable_progress_bars()
    set_verbosity_error()


def is_connection_error(error: BaseException) -> bool:
    """Whether the same request may succeed later: no connection, a broken one, or a server that is too busy."""
    from huggingface_hub.errors import HfHubHTTPError, HTTPError

    if isinstance(error, HfHubHTTPError):
        return error.response.status_code in _BUSY
    return isinstance(error, HTTPError | ConnectionError | TimeoutError)


def is_offline(error: BaseException | None) -> bool:
    """Whether the user's HF_HUB_OFFLINE is behind it."""
    from huggingface_hub.errors import OfflineModeIsEnabled

    return isinstance(error, OfflineModeIsEnabled)


def retry_after_seconds(error: Exception) -> float:
    """What the server's Retry-After asks for, as seconds or as a date; 0 where it says nothing."""
    response = getattr(error, "response", None)
    value = response.headers.get("Retry-After", "").strip() if response is not None else ""
    if value.isdigit():
        return float(value)
    try:
        return max(0.0, email.utils.parsedate_to_datetime(value).timestamp() - time.time())
    except ValueError:
        return 0.0


@contextlib.contextmanager
def asked_for(index: HubIndex, file: HubFile, start: int, stop: int | None = None) -> Iterator[Any]:
    """The hub's answer: a file's bytes from `start` to its end, or up to `stop`, to be read as they come.

    Raises:
        BadShard: the hub's file ends before `start`.
        UserError, MachineError: no access to the file.
        Other errors: of the connection; the same may succeed later.
    """
    from huggingface_hub import constants, hf_hub_url
    from huggingface_hub.errors import HfHubHTTPError
    from huggingface_hub.utils import build_hf_headers, get_session, hf_raise_for_status

    url = hf_hub_url(index.repo, file.name, repo_type="dataset", revision=index.revision)
    headers = build_hf_headers() | {"Accept-Encoding": "identity"}
    if start or stop is not None:
        headers["Range"] = f"bytes={start}-{'' if stop is None else stop - 1}"
    try:
        with get_session().stream("GET", url, headers=headers, timeout=constants.HF_HUB_DOWNLOAD_TIMEOUT) as answer:
            hf_raise_for_status(answer)
            yield answer
    except HfHubHTTPError as error:
        if is_connection_error(error):
            raise
        if error.response.status_code == 416:
            raise BadShard("the server's file is shorter than it should be") from error
        raise access_error(error, index.repo, index.revision) from error


def access_error(error: Exception, repo: str, revision: str | None) -> UserError | MachineError:
    """What an answer of the hub that is none (4xx) means, and what to do about it."""
    from huggingface_hub import constants
    from huggingface_hub.errors import GatedRepoError, HfHubHTTPError, RepositoryNotFoundError, RevisionNotFoundError

    hub, token = constants.ENDPOINT, _token()
    if isinstance(error, GatedRepoError):
        return gated_error(repo)
    if isinstance(error, RepositoryNotFoundError):
        return UserError(
            f"There is no data set {repo} on {hub} that {token} may see{_other_repos(repo)} If it is private, set "
            "HF_TOKEN to a token that may read it."
        )
    if isinstance(error, RevisionNotFoundError):
        there_are = _revisions(repo)
        listed = f" (there are: {', '.join(there_are)}){nearest(str(revision), there_are)}" if there_are else "."
        return UserError(
            f"{repo} has no revision '{revision}'{listed} Choose one with data.revision, or null for the newest."
        )
    status = error.response.status_code if isinstance(error, HfHubHTTPError) else None
    if status in (401, 403):
        return UserError(f"{hub} refuses {token} the access to {repo} (status {status}). Set HF_TOKEN to one that may.")
    return MachineError(f"{hub} has no answer about {repo}: {error}")


def gated_error(repo: str) -> UserError:
    """The data set's terms were not accepted."""
    from huggingface_hub import constants

    return UserError(
        f"{repo} is a gated data set, and {_token()} has no access. Accept its terms at "
        f"{constants.ENDPOINT}/datasets/{repo}, and set HF_TOKEN to a token of that account."
    )


def _token() -> str:
    from huggingface_hub import get_token

    return "the token in HF_TOKEN" if get_token() else "a request without HF_TOKEN"


def _other_repos(repo: str) -> str:
    """The data sets of the same organisation, as the end of a sentence."""
    from huggingface_hub import HfApi

    try:
        names = [info.id for info in HfApi().list_datasets(author=repo.split("/")[0], limit=1000)]
    except Exception:  # only a hint: whatever happens here, the error that is being explained matters more
        return "."
    hint = nearest(repo, names)
    if hint != ".":
        return hint
    return f" (of {repo.split('/')[0]} there are: {', '.join(names[:20])})." if names else "."


def _revisions(repo: str) -> list[str]:
    from huggingface_hub import HfApi

    try:
        refs = HfApi().list_repo_refs(repo, repo_type="dataset")
    except Exception:  # only a hint, as above
        return []
    return [re.sub(r"^refs/(heads|tags)/", "", ref.ref) for ref in [*refs.branches, *refs.tags, *refs.converts]]
