"""A sweep's parts on the workers of a Dask cluster.

A part is the same function of the same job wherever it runs, so a worker that dies costs time only: its
parts are computed again elsewhere. Workers must run the same versions of everything that decides a
number; parts are refused otherwise. On other processors the last bit of a number may differ.
"""

from __future__ import annotations

import hashlib
import io
import threading
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any, cast

import numpy as np

from quantflow.backtest._sweep_job import Job, Runner
from quantflow.errors import QuantflowError, SweepError
from quantflow.signals import CrossSection, Signal

# distributed is typed in part only: its calls return nothing that a checker could use.
Client = Any
Future = Any

__all__ = ["cluster_threads", "run_on_cluster"]

Part = tuple[int, int]

# A part that is sent again this often kills its workers, or the cluster is going away.
_MOST_ATTEMPTS = 5
# Parts under way for each thread of the cluster: enough that none waits for the next one to be sent.
_PARTS_A_THREAD = 2
_POLL_S = 0.2
_LOCK = type(threading.Lock())

_runners: dict[str, Runner] = {}
_lock = threading.Lock()


def cluster_threads(client: Client) -> int:
    """Return how many parts the cluster computes at once.

    Raises
    ------
    SweepError
        It has no worker.
    """
    threads = sum(client.nthreads().values())
    if threads == 0:
        raise SweepError(f"{client} has no workers; start some, or leave cluster=None to sweep here")
    return int(threads)


def run_on_cluster(
    client: Client,
    job: Job,
    parts: Iterator[Part],
    arrived: Callable[[Part, np.ndarray], None],
    *,
    cancelled: Callable[[], bool],
) -> None:
    """Compute the parts on the cluster and hand over each as it arrives, in any order.

    Returns early when ``cancelled`` says so.

    Raises
    ------
    SweepError
        The cluster lost its workers, or they run other versions.
    QuantflowError
        Whatever a part raised.
    """
    import distributed

    wait: Any = distributed.wait
    sent = _Sent(client, job)
    window = _PARTS_A_THREAD * cluster_threads(client)
    try:
        while not cancelled():
            while len(sent.under_way) < window and (part := next(parts, None)) is not None:
                sent.submit(part)
            if not sent.under_way:
                return
            try:
                finished = wait(list(sent.under_way), timeout=_POLL_S, return_when="FIRST_COMPLETED").done
            except TimeoutError:
                continue
            except distributed.CancelledError:
                finished = {future for future in sent.under_way if future.status in ("cancelled", "lost")}
            for future in finished:
                sent.receive(future, arrived)
    finally:
        sent.cancel()


class _Sent:
    """What is on the cluster now: the job, and the parts under way."""

    def __init__(self, client: Client, job: Job) -> None:
        self._client = client
        self._token, self._packed = _pack(job)
        self._payload = self._scatter()
        self._attempts: dict[Part, int] = {}
        self.under_way: dict[Future, Part] = {}

    def submit(self, part: Part) -> None:
        self._attempts[part] = self._attempts.get(part, 0) + 1
        future = self._client.submit(_work, self._payload, self._token, *part, pure=False, key=self._key(part))
        self.under_way[future] = part

    def receive(self, future: Future, arrived: Callable[[Part, np.ndarray], None]) -> None:
        part = self.under_way.pop(future)
        if future.status == "finished":
            try:
                arrived(part, future.result())
            except self._lost:
                self._again(part)
            else:
                del self._attempts[part]
                future.release()
        elif future.status == "error":
            self._raise(part, future.exception())
        else:
            self._again(part)

    def cancel(self) -> None:
        if self.under_way:
            self._client.cancel(list(self.under_way), force=True)
            self.under_way.clear()

    def _again(self, part: Part) -> None:
        # With a worker that was killed the job itself may be gone.
        if self._attempts[part] >= _MOST_ATTEMPTS:
            raise _given_up(part, f"was lost {_MOST_ATTEMPTS} times with its workers")
        if self._payload.status != "finished":
            self._payload = self._scatter()
        self.submit(part)

    def _raise(self, part: Part, cause: BaseException | None) -> None:
        from distributed.scheduler import KilledWorker

        if isinstance(cause, QuantflowError):
            raise cause
        if isinstance(cause, KilledWorker):
            raise _given_up(part, "killed the workers that tried it") from cause
        raise SweepError(f"combinations {part[0]:,} to {part[1] - 1:,} failed on the cluster: {cause!r}") from cause

    def _scatter(self) -> Future:
        return self._client.scatter(self._packed, broadcast=True, hash=False)

    def _key(self, part: Part) -> str:
        return f"quantflow-sweep-{self._token[:12]}-{part[0]}-{part[1]}-{self._attempts[part]}-{id(self):x}"

    @property
    def _lost(self) -> tuple[type[BaseException], ...]:
        import distributed

        return (distributed.CancelledError,)


def _given_up(part: Part, what: str) -> SweepError:
    return SweepError(
        f"the part with combinations {part[0]:,} to {part[1] - 1:,} {what}; look at the workers' logs, often it is "
        "memory, then start the sweep again: with a store it goes on"
    )


def _work(packed: bytes, token: str, first: int, last: int) -> np.ndarray:
    """Return the figures of one part; runs on a worker."""
    with _lock:
        runner = _runners.get(token)
        if runner is None:
            _runners.clear()  # one job's bars at a time
            runner = _runners[token] = Runner(_unpack(packed))
    return runner.run(first, last, threads=1)


def _pack(job: Job) -> tuple[str, bytes]:
    """Return the job as bytes, and a name for it."""
    import cloudpickle  # type: ignore[import-untyped]

    class Pickler(cloudpickle.Pickler):  # type: ignore[misc]
        def reducer_override(self, value: Any) -> Any:
            reduced = _reduced(value)
            return super().reducer_override(value) if reduced is None else reduced

    buffer = io.BytesIO()
    try:
        Pickler(buffer).dump((job.identity(), job))
    except Exception as exc:
        raise SweepError(
            f"{job.name} cannot be sent to a cluster: {exc}; define it without open files, locks or connections"
        ) from exc
    return hashlib.sha256(buffer.getvalue()).hexdigest(), buffer.getvalue()


def _reduced(value: Any) -> tuple[Callable[..., Any], tuple[Any, ...]] | None:
    """Return how a signal is made again from its definition: compiled code and locks stay here."""
    if type(value) is Signal:
        return partial(Signal, columns=value.columns, name=value.name), (value.definition,)
    if type(value) is CrossSection:
        policy = {name: getattr(value, name) for name in ("symbols", "missing", "hold_bars", "grace_s")}
        return partial(CrossSection, columns=value.columns, name=value.name, **policy), (value.definition,)
    if type(value) is _LOCK:
        return threading.Lock, ()
    return None


def _unpack(packed: bytes) -> Job:
    import pickle

    identity, job = pickle.loads(packed)  # noqa: S301 - from the client, which may run any code here
    here = job.identity()
    if here != identity:
        differing = [name for name in here if here[name] != identity[name]]
        raise SweepError(
            f"a worker differs from the client in {', '.join(f'{name}: {here[name]}' for name in differing)}; results "
            "could differ, too: install the same versions, of your own modules as well"
        )
    return cast(Job, job)
