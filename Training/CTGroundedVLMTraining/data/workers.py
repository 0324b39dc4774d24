"""Runs one function over many items: here, in processes, or on a Ray cluster. Results come as they are done."""

from __future__ import annotations

import itertools
import multiprocessing
import os
import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from typing import Any, TypeVar

from CTGroundedVLMLib.errors import DependencyError, ResourceError

Item = TypeVar("Item")
Result = TypeVar("Result")
Outcome = tuple[Item, Result | ResourceError]
DEVICE_VARIABLE = "CTGVLM_SEGMENT_DEVICE"  # where this process segments: "cpu", "cuda:1", ...
_ONE_THREAD = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "ITK_GLOBAL_DEFAULT_NUMBER_OF_THREADS")
_AHEAD = 2  # items handed out per worker: none waits for the next one, and few are lost with a pool


def run_here(function: Callable[[Item], Result], items: Iterable[Item]) -> Iterator[Outcome]:
    """One after the other in this process."""
    for item in items:
        yield item, function(item)


def run_in_processes(
    function: Callable[[Item], Result], items: Iterable[Item], jobs: int, devices: Sequence[str] = ()
) -> Iterator[Outcome]:
    """In ``jobs`` processes of one thread each; ``devices``: for segmentation, one per process in turn.

    A process that dies (memory, a crash in a library) takes the pool with it. What was in work is then run again, one by one,
    and an item that ends a process a second time comes back with a ResourceError.
    """
    queue = iter(items)
    while True:
        with _Pool(function, jobs, devices) as pool:
            yield from pool.run(queue)
        if not pool.lost:
            return
        for item in pool.lost:
            with _Pool(function, 1, devices) as single:
                yield from single.run(iter([item]))
            if single.lost:
                yield item, _died(item)


class _Pool:
    """``lost``: what was in work when the pool broke; its remaining items stay in the queue."""

    def __init__(self, function: Callable[[Item], Result], jobs: int, devices: Sequence[str]) -> None:
        context = multiprocessing.get_context("spawn")  # libraries with threads do not survive a fork
        turn = context.Queue()
        for number in range(jobs if devices else 0):
            turn.put(devices[number % len(devices)])
        self._executor = ProcessPoolExecutor(
            jobs, mp_context=context, initializer=_start_worker, initargs=(turn if devices else None,)
        )
        self._function, self._limit = function, _AHEAD * jobs
        self.lost: list[Any] = []

    def run(self, queue: Iterator[Item]) -> Iterator[Outcome]:
        working: dict[Future, Item] = {}
        try:
            while True:
                for item in itertools.islice(queue, self._limit - len(working)):
                    self.lost = [*working.values(), item]  # should submit() itself find the pool broken
                    working[self._executor.submit(self._function, item)] = item
                self.lost = []
                if not working:
                    return
                for future in wait(working, return_when=FIRST_COMPLETED).done:
                    result = future.result()
                    yield working.pop(future), result
        except BrokenProcessPool:
            self.lost = self.lost or list(working.values())

    def __enter__(self) -> _Pool:
        return self

    def __exit__(self, *exc: object) -> None:
        self._executor.shutdown(wait=True, cancel_futures=True)


def _died(item: object) -> ResourceError:
    return ResourceError(
        f"The process that worked on it ended without a message, twice (memory, or a crash in a library): {_name(item)}. "
        "Try again with fewer --jobs and --retry; else look at the file."
    )


def _name(item: object) -> str:
    return getattr(getattr(item, "row", None), "case_id", None) or str(item)


def _start_worker(devices: Any) -> None:
    """The processes share the cores: threads within each would be in each other's way."""
    if devices is not None:
        os.environ[DEVICE_VARIABLE] = devices.get()
    threading.Thread(target=_end_with, args=(os.getppid(),), daemon=True).start()
    _one_thread()


def _end_with(parent: int) -> None:
    """A process whose parent was killed would wait for work for ever."""
    while os.getppid() == parent:
        time.sleep(1)
    os._exit(1)


def _one_thread() -> None:
    """Before torch and ITK are imported, which happens with the first item."""
    os.environ.update(dict.fromkeys(_ONE_THREAD, "1"))


def run_on_ray(
    function: Callable[[Item], Result], items: Iterable[Item], address: str | None, jobs: int, *, gpus: float = 0
) -> Iterator[Outcome]:
    """On a Ray cluster (``address``, "auto" for the one around), or on a local one of ``jobs`` CPUs where it is None.

    ``gpus``: of each item. All machines need the package, and the same paths to input and output.

    Raises:
        DependencyError: ray is not installed, or the cluster cannot be reached.
    """
    ray = _connected(address, jobs)
    remote = ray.remote(num_cpus=1, num_gpus=gpus, max_retries=1)(_on_ray)
    limit = _AHEAD * max(1, int(ray.cluster_resources().get("CPU", 1)))
    queue, working = iter(items), {}
    try:
        while True:
            for item in itertools.islice(queue, limit - len(working)):
                working[remote.remote(function, item, gpus > 0)] = item
            if not working:
                return
            done, _ = ray.wait(list(working), num_returns=1)
            item = working.pop(done[0])
            try:
                result = ray.get(done[0])
            except ray.exceptions.RayTaskError as error:
                raise error.cause from error
            except _lost(ray.exceptions):
                result = _died(item)
            yield item, result
    finally:
        ray.shutdown()


def _lost(exceptions: Any) -> tuple[type[Exception], ...]:
    """What Ray raises where a worker, its machine, or the machine that held the result has gone."""
    return (
        exceptions.WorkerCrashedError,
        exceptions.OutOfMemoryError,
        exceptions.NodeDiedError,
        exceptions.LocalRayletDiedError,
        exceptions.RaySystemError,
        exceptions.ObjectLostError,
    )


def _connected(address: str | None, jobs: int) -> Any:
    try:
        import ray
        import ray.exceptions
    except ImportError as error:
        raise DependencyError('--ray needs Ray: pip install "ct-grounded-vlm[cluster]".') from error
    local = {} if address else {"num_cpus": jobs, "include_dashboard": False}
    environment = {"env_vars": {"PYTHONPATH": os.pathsep.join(filter(None, sys.path))}} if not address else None
    try:
        ray.init(address=address, runtime_env=environment, log_to_driver=False, logging_level="ERROR", **local)
    except (ConnectionError, OSError, RuntimeError) as error:
        raise DependencyError(
            f"Ray cannot be started or reached at {address or 'this machine'} ({error}). Start a cluster with `ray start`, "
            "or leave --ray out."
        ) from error
    return ray


def _on_ray(function: Callable[[Any], Any], item: Any, gpu: bool) -> Any:
    if gpu:
        os.environ[DEVICE_VARIABLE] = "cuda"  # Ray shows each task its own GPU only
    _one_thread()
    return function(item)
