"""The processes of one run: how they meet, agree, and fail."""

import contextlib
import os
import socket
import sys
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from datetime import timedelta
from typing import TYPE_CHECKING, Any, TypeVar

from nanochat_pl.core.errors import MachineError, UserError
from nanochat_pl.core.hardware import Hardware
from nanochat_pl.core.paths import known_error
from nanochat_pl.core.place import ALONE, Place, restarts

if TYPE_CHECKING:
    from torch.distributed import Store

T = TypeVar("T")

SAYING_SECONDS = 1.0
LOOKING_SECONDS = 0.1
BEATS = 10
"""How often within the timeout a process that prepares something shows that it lives."""


class Processes:
    """Those of a run, joined; every method is called by all of them, in the same order.

    Args:
        timeout_seconds: how long one may wait for another in a training step, or for a sign of life from one that
            prepares something.

    Attributes:
        started_again: torchrun or SLURM has started the same command before; right in the first process.

    Raises:
        MachineError: they don't find each other.
    """

    def __init__(self, place: Place = ALONE, accelerator: str = "cpu", timeout_seconds: float = 600.0):
        self.place, self._timeout_seconds = place, timeout_seconds
        self._store: Store | None = None
        self._waits = 0
        self.started_again = restarts() > 0
        if place.world_size > 1:
            shared, self._store = _join(place, accelerator, timeout_seconds)
            if self.is_first:  # torchrun keeps its store; its count of restarts is that of one node
                self.started_again |= shared.check(["started"])
                shared.set("started", "")

    @property
    def is_first(self) -> bool:
        """Whether this is the one that writes the run's folder."""
        return self.place.rank == 0

    def threads(self, hardware: Hardware) -> int | None:
        """How many this process is to use of the CPU; None leaves torch's choice."""
        if hardware.threads or self._store is None or hardware.accelerator != "cpu" or "OMP_NUM_THREADS" in os.environ:
            return hardware.threads
        import torch

        return max(1, torch.get_num_threads() // self.place.local_world_size)

    def close(self) -> None:
        """Part from the others."""
        import torch

        if self._store is not None and torch.distributed.is_initialized():
            torch.distributed.destroy_process_group()

    @contextlib.contextmanager
    def one_by_node(self) -> Iterator[None]:
        """The first process of each node does what is inside before the others do it, who then find it in the cache.

        Raises:
            MachineError: it shows no sign of life.
        """
        if self._store is None:
            yield
            return
        self._waits += 1
        key = f"prepared/{self._waits}/{os.environ.get('GROUP_RANK', '0')}"
        if self.place.local_rank:
            self._wait_for(key)
            yield
            return
        with self._living(key):
            yield
        self._store.set(key, "done")

    def decided_by_first(self, decide: Callable[[], T]) -> T:
        """What `decide` returns in the first process, in all of them; what it raises there is raised in all.

        Raises:
            MachineError: the first process shows no sign of life.
        """
        if self._store is None:
            return decide()
        import torch

        self._waits += 1
        key = f"decided/{self._waits}"
        decided: list[Any] = [None, None]
        if self.is_first:
            try:
                with self._living(key):
                    decided[0] = decide()
            except (UserError, MachineError) as error:
                decided[1] = error
            self._store.set(key, "now")
        else:
            self._wait_for(key)
        torch.distributed.broadcast_object_list(decided, src=0)
        value, refused = decided
        if refused is not None:
            raise refused
        return value

    @contextlib.contextmanager
    def _living(self, key: str) -> Iterator[None]:
        """Show the others that this process lives, who wait for `key`, however long that takes."""
        ended = threading.Event()

        def beat() -> None:
            with contextlib.suppress(RuntimeError):  # the store's process is gone, which the main thread will notice
                while not ended.is_set():
                    self._store.add(f"{key}/beats", 1)  # type: ignore[union-attr]
                    ended.wait(self._timeout_seconds / BEATS)

        threading.Thread(target=beat, name="beats", daemon=True).start()
        try:
            yield
        finally:
            ended.set()

    def _wait_for(self, key: str) -> None:
        assert self._store is not None
        beats, seen = 0, time.monotonic()
        while not self._store.check([key]):
            if (now := self._store.add(f"{key}/beats", 0)) != beats:
                beats, seen = now, time.monotonic()
            if time.monotonic() - seen > self._timeout_seconds:
                raise MachineError(
                    f"Rank {self.place.rank} on {socket.gethostname()} waits for what another process prepares, which "
                    f"has shown no sign of life for {self._timeout_seconds:.0f} s: it is stopped, or its machine is "
                    "gone. Run the same command again."
                )
            time.sleep(min(LOOKING_SECONDS, self._timeout_seconds / BEATS))

    def all_say(self, is_so: bool) -> bool:
        """Whether it is so in all processes."""
        if self._store is None:
            return is_so
        import torch

        said: list[Any] = [None] * self.place.world_size
        torch.distributed.all_gather_object(said, is_so)
        return all(said)

    def check_alike(self, facts: dict[str, Any]) -> None:
        """See that all processes hold the same.

        Raises:
            UserError: they don't; names what differs, where.
        """
        if self._store is None:
            return
        import torch

        gathered: list[Any] = [None] * self.place.world_size
        torch.distributed.all_gather_object(gathered, (socket.gethostname(), facts))
        host, first = gathered[0]
        for rank, (other_host, other) in enumerate(gathered):
            names = [name for name in sorted(first.keys() | other.keys()) if first.get(name) != other.get(name)]
            if names:
                shown = "; ".join(
                    f"{name} is {other.get(name)!r} there, {first.get(name)!r} here" for name in names[:5]
                )
                more = f"; and {len(names) - 5} more" if len(names) > 5 else ""
                raise UserError(
                    f"The process of rank {rank} on {other_host} would train something else than rank 0 on {host}: "
                    f"{shown}{more}. Start all with the same command, code and versions, and a runs folder "
                    "(NANOCHAT_PL_RUNS) that all of them see."
                )

    def tell(self, what: str, text: str) -> None:
        """Leave a word for the others; from any thread, without waiting for them."""
        if self._store is not None:
            self._store.set(f"told/{what}/{self.place.rank}", text)

    def told(self, what: str) -> dict[int, str]:
        """The words that were left so far, by rank."""
        if self._store is None:
            return {}
        keys = {rank: f"told/{what}/{rank}" for rank in range(self.place.world_size)}
        return {rank: self._store.get(key).decode() for rank, key in keys.items() if self._store.check([key])}

    @contextlib.contextmanager
    def failing_once(self) -> Iterator[None]:
        """An error goes on from here in the process that it came to first; the others end with nothing said.

        Raises:
            MachineError: another process is gone, which did not say why.
        """
        try:
            yield
        except Exception as error:
            if self._store is None:
                raise
            _record(error)
            lost = is_lost_connection(error)
            known = known_error(error)
            if lost:
                time.sleep(SAYING_SECONDS)  # in which the one that is gone may have said why
            if not self.fails_first(lost):
                sys.exit(getattr(known, "exit_code", 1))
            if lost and known is None:
                raise MachineError(
                    f"Rank {self.place.rank} has lost another process of this run: {str(error).splitlines()[0]} It was "
                    "killed, or its machine or network failed. Run the same command again to go on from the last "
                    "checkpoint."
                ) from error
            raise

    def fails_first(self, lost: bool = True) -> bool:
        """Whether no other process has failed before, so that this one is to say why the run ends.

        Args:
            lost: what to return where the others cannot be asked.
        """
        own = str(self.place.rank)
        try:
            return self._store.compare_set("failed", "", own).decode() == own  # type: ignore[union-attr]
        except RuntimeError:  # the process that holds the store is gone: killed, or it has said why
            return lost


@contextlib.contextmanager
def told_once_a_node(place: Place | None) -> Iterator[None]:
    """What is wrong before the processes have met is wrong for all of a node: its first one tells it."""
    try:
        yield
    except (UserError, MachineError) as error:
        _record(error)
        if place is not None and place.local_rank:
            sys.exit(error.exit_code)
        raise


def _join(place: Place, accelerator: str, timeout_seconds: float) -> "tuple[Store, Store]":
    """The launcher's store, and that of these processes."""
    import torch
    from torch.distributed.rendezvous import rendezvous

    address = f"{os.environ['MASTER_ADDR']}:{os.environ['MASTER_PORT']}"
    if accelerator == "cuda":
        torch.cuda.set_device(place.local_rank)
    # The training has its own watch (callbacks/hang_watch.py), which says more: it comes first.
    timeout = timedelta(seconds=1.5 * timeout_seconds)
    try:
        shared, _, _ = next(rendezvous("env://", timeout=timeout))
        store = torch.distributed.PrefixStore(_round(shared, place, timeout), shared)
        torch.distributed.init_process_group(
            "cpu:gloo,cuda:nccl" if accelerator == "cuda" else "gloo",
            store=torch.distributed.PrefixStore("group", store),
            rank=place.rank,
            world_size=place.world_size,
            timeout=timeout,
        )
    except (RuntimeError, ValueError) as error:
        if "EADDRINUSE" in str(error) or "in use" in str(error):
            raise MachineError(
                f"The port of {address}, where the processes are to meet, is in use by another program. Choose another "
                "one with MASTER_PORT (torchrun: --master-port or --rdzv-endpoint)."
            ) from error
        raise MachineError(
            f"Rank {place.rank} of {place.world_size} did not find the others at {address} within "
            f"{timeout.total_seconds():.0f} s: {str(error).splitlines()[0]} See that all {place.world_size} processes "
            "are started, that MASTER_ADDR can be reached from every node, and that no firewall is between them."
        ) from error
    return shared, torch.distributed.PrefixStore("run", store)


def _round(store: "Store", place: Place, timeout: timedelta) -> str:
    """A name that only the processes of this start share.

    torchrun keeps its store when it starts the processes again, and in it the addresses and words of those before
    them; its count of restarts may differ between nodes.
    """
    own = uuid.uuid4().hex
    if place.rank:
        store.set(f"here/{place.rank}", own)
        name = store.get(f"answer/{own}").decode()
        store.set(f"{name}/{place.rank}", "heard")
        return name
    missing = set(range(1, place.world_size))
    deadline = time.monotonic() + timeout.total_seconds()
    while missing:
        if time.monotonic() > deadline:
            raise RuntimeError(f"ranks {', '.join(map(str, sorted(missing)))} did not come.")
        for rank in missing:
            if store.check([f"here/{rank}"]):  # perhaps of an earlier start: answered until the right one has heard
                store.set(f"answer/{store.get(f'here/{rank}').decode()}", own)
        missing = {rank for rank in missing if not store.check([f"{own}/{rank}"])}
        time.sleep(0.01)
    return own


def _record(error: Exception) -> None:
    """Let the launcher know, which shows it at its end."""
    if "TORCHELASTIC_ERROR_FILE" in os.environ:
        from torch.distributed.elastic.multiprocessing.errors import get_error_handler

        get_error_handler().record_exception(error)


def is_lost_connection(error: BaseException) -> bool:
    """Whether the error is that another process of the run is gone or does not answer."""
    import torch

    if isinstance(error, torch.distributed.DistError):
        return True
    words = ("Connection closed by peer", "Connection reset by peer", "gloo", "NCCL", "Timed out waiting", "TCPStore")
    return isinstance(error, RuntimeError) and any(word in str(error) for word in words)
