"""Log lines: plain on the console, dated in the run's train.log."""

import logging
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path


@contextmanager
def logging_to(path: Path, rank: int = 0) -> Iterator[None]:
    """While inside, the package's INFO lines go to standard error and are appended to `path`.

    Args:
        rank: of this process; another than the first shows errors only, and keeps its lines in a file of its own.
    """
    logger = logging.getLogger("nanochat_pl")
    console = _Console()
    console.setFormatter(logging.Formatter("%(message)s"))
    if rank:
        console.setLevel(logging.ERROR)
        console.setFormatter(logging.Formatter(f"rank {rank}: %(message)s"))
        path = path.with_name(f"{path.stem}.rank-{rank}{path.suffix}")
    path.parent.mkdir(parents=True, exist_ok=True)
    file = _File(path, encoding="utf-8")
    file.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(message)s"))
    logger.setLevel(logging.INFO)
    logger.propagate = False
    for handler in (console, file):
        logger.addHandler(handler)
    try:
        yield
    finally:
        for handler in (console, file):
            logger.removeHandler(handler)
            handler.close()


class _File(logging.FileHandler):
    """Prints no traceback for each line that a full disk has no room for."""

    def handleError(self, record: logging.LogRecord) -> None:
        if not isinstance(sys.exception(), OSError):
            super().handleError(record)


class _Console(logging.Handler):
    """Writes to the standard error of the moment, which a progress bar may have replaced by its own."""

    def emit(self, record: logging.LogRecord) -> None:
        with suppress(OSError):  # the terminal is gone, or the disk that it was sent to is full
            print(self.format(record), file=sys.stderr, flush=True)
