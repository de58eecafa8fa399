"""Airflow operators of quantflow."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from importlib import import_module
from typing import TYPE_CHECKING, Any

from airflow.sdk import BaseOperator

if TYPE_CHECKING:
    from airflow.sdk import Context

__all__ = ["AwaitRun", "run_step"]

_TASKS = "quantflow.orchestration.tasks"

#: The trigger ends by itself; Airflow's own limit is the one behind it.
_GRACE = timedelta(minutes=1)


class AwaitRun(BaseOperator):
    """Wait until another run has ended, deferred, and return its result.

    The task fails with the other run's error if that run failed, and with a time-out if it
    has not ended after ``timeout_s`` seconds; neither is tried again.

    Parameters
    ----------
    run_id
        The run to wait for; templated, so another task's output may name it.
    timeout_s
        Longest wait in seconds; templated as well.
    poll_s
        Seconds between two looks at the event log.
    """

    template_fields = ("run_id", "timeout_s")

    def __init__(self, *, run_id: str, timeout_s: float = 3600.0, poll_s: float = 0.5, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.run_id = run_id
        self.timeout_s = timeout_s
        self.poll_s = poll_s

    def execute(self, context: Context) -> Any:
        """Defer to the triggerer, unless the run has ended already."""
        from quantflow.orchestration.triggers import RunFinishedTrigger

        ended = run_step("begin_waiting", context["ti"], awaited=self.run_id)
        if ended is not None:
            return self.collect(context, ended)
        wait = timedelta(seconds=float(self.timeout_s))
        deadline = (datetime.now(UTC) + wait).isoformat()
        self.defer(
            trigger=RunFinishedTrigger(self.run_id, deadline, self.poll_s),
            method_name=self.collect.__name__,
            timeout=wait + _GRACE,
        )

    def collect(self, context: Context, event: dict[str, Any]) -> dict[str, Any]:
        """Return the other run's result, or fail with its error."""
        result: dict[str, Any] = run_step("collect_result", context["ti"], event=event, waited_s=float(self.timeout_s))
        return result


def run_step(name: str, instance: Any, /, **arguments: Any) -> Any:
    """Run a task of a pipeline; see :func:`quantflow.orchestration.tasks.run_task`.

    What tasks do imports half of quantflow. It is named here, not imported, so that reading
    a DAG never pays for it (an import rule holds it so).
    """
    return import_module(_TASKS).run_task(name, instance, arguments)
