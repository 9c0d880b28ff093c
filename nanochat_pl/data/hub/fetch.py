"""Files of a hub data set fetched into the cache before a training, in the order in which it reads them."""

import dataclasses
import threading
from collections.abc import Callable

from nanochat_pl.core.errors import UserError
from nanochat_pl.data.hub.cache import size_of
from nanochat_pl.data.hub.specs import HubDataSpec
from nanochat_pl.data.stream import COMING_SHARDS, Dealer

_LOOK_EVERY_SECONDS = 0.2


class Fetch:
    """The first `number` files that a training of this seed reads (None: all), and the documents it validates on.

    Raises:
        UserError: together they are larger than the cache may be; what finding the files raises.
        MachineError: the hub cannot be reached.

    Attributes:
        files: their names, in training's order.
        num_bytes: of these.
        num_all_files: to train on, in the data set.
        folder: where they are put.
        bad: names of files that are no use, after `run`.
    """

    def __init__(self, data: HubDataSpec, seed: int, number: int | None):
        data = dataclasses.replace(data, mode="cache")
        index = data.build_index()
        files, _ = data.files_by_side(index)
        self._train, self._val = data.build_sources()
        self._shards = Dealer(self._train, data.streams, seed).first_epoch()[:number]
        sizes = [files[shard].size for shard in self._shards]
        self.files = [files[shard].name for shard in self._shards]
        self.num_bytes, self.num_all_files, self.folder = sum(sizes), len(files), index.folder
        self.bad: list[str] = []
        if self.num_bytes > data.cache_gigabytes * 1e9:
            fitting = sum(sum(sizes[: count + 1]) <= data.cache_gigabytes * 1e9 for count in range(len(sizes)))
            raise UserError(
                f"These {len(sizes):,} files take {self.num_bytes / 1e9:,.2f} GB, and data.cache_gigabytes is "
                f"{data.cache_gigabytes:g}: raise it, or fetch fewer files (-n {fitting}). Training fetches the others "
                "itself, ahead of need, and lets the oldest go."
            )

    def run(self, on_bytes: Callable[[int], None] = lambda there: None) -> None:
        """Fetch what is not there yet.

        Args:
            on_bytes: is told now and then, from another thread, how many bytes are there.

        Raises:
            UserError, MachineError: no access; the hub stayed out of reach; the disk is full; a bad file where these
                are to stop the training.
        """
        done = threading.Event()

        def watch() -> None:
            while not done.wait(_LOOK_EVERY_SECONDS):
                on_bytes(self.bytes_there())

        watcher = threading.Thread(target=watch, name="watch-files", daemon=True)
        watcher.start()
        try:
            for place, shard in enumerate(self._shards):
                self._train.coming(self._shards[place : place + COMING_SHARDS])
                if not self._train.num_chunks(shard):
                    self.bad.append(self.files[place])
            for shard in range(self._val.num_shards):
                self._val.num_chunks(shard)
        finally:
            done.set()
            watcher.join()
        on_bytes(self.bytes_there())

    def bytes_there(self) -> int:
        """How much of the files is on the disk, parts of unfinished ones included."""
        paths = [self.folder / name for name in self.files]
        return sum(size_of(path) or size_of(path.with_name(f"{path.name}.part")) for path in paths)
