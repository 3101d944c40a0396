"""How volumes are loaded, and how their samples come to the network: nothing here changes a result."""

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from typing import Any, TypeVar

import torch
from lightning.pytorch import Trainer
from tqdm.auto import tqdm

from lit_continual.data.arguments import require_at_least

T = TypeVar("T")


@dataclass(frozen=True)
class Loading:
    """How fast data come, at which price in memory.

    Args:
        threads: How many volumes are loaded at a time, when a fit or an evaluation begins; each takes a few times the
            memory of its volume meanwhile.
        pin_memory: Put training batches into page-locked memory, from which a GPU copies while it computes; done where
            the training is on such a GPU, and nowhere else.
        persistent_workers: Keep worker processes from one epoch to the next.
        prefetch: Batches that each worker process has ready.

    Raises:
        ValueError: If a number is less than 1.
    """

    threads: int = 4
    pin_memory: bool = True
    persistent_workers: bool = True
    prefetch: int = 2

    def __post_init__(self) -> None:
        require_at_least(1, threads=self.threads, prefetch=self.prefetch)

    def options(self, num_workers: int, trainer: Trainer | None) -> dict[str, Any]:
        """Return the arguments of a ``DataLoader`` of training samples.

        Args:
            num_workers: Processes that make samples; 0 for none.
            trainer: Who trains; ``None`` where that is not known.

        Example:
            >>> Loading().options(2, None)
            {'num_workers': 2, 'pin_memory': False, 'persistent_workers': True, 'prefetch_factor': 2}
        """
        on_gpu = trainer is not None and trainer.strategy.root_device.type == "cuda"
        options = {"num_workers": num_workers, "pin_memory": self.pin_memory and on_gpu}
        if num_workers:
            options |= {"persistent_workers": self.persistent_workers, "prefetch_factor": self.prefetch}
        return options


def load_in_threads(load: Callable[[int], T], order: Sequence[int], threads: int, name: str) -> list[T]:
    """Call ``load`` with each number of ``order`` and return the results by number, with a progress bar.

    Raises:
        Exception: The first that ``load`` raises, in that order; what has not begun by then is not begun.
    """
    shown = partial(tqdm, desc=f"Loading {name}", leave=False, disable=None)
    found: dict[int, T] = {}
    if min(threads, len(order)) <= 1:
        found = {k: load(k) for k in shown(order)}
    else:
        # In a forked process torch makes its own pool anew when it is first asked for, which two threads must not do.
        torch.set_num_threads(torch.get_num_threads())
        with ThreadPoolExecutor(threads) as pool:
            futures = {k: pool.submit(load, k) for k in order}
            try:
                found = {k: futures[k].result() for k in shown(order)}
            except BaseException:
                pool.shutdown(wait=False, cancel_futures=True)
                raise
    return [found[k] for k in sorted(found)]
