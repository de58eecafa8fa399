"""The magics themselves; imported when the extension is loaded."""

from __future__ import annotations

import getpass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from quantflow.errors import QuantflowError
from quantflow.events.log import EventLog
from quantflow.events.runs import get_run, list_runs
from quantflow.promotion import Registry
from quantflow.settings import Settings

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["register"]


def register(shell: Any) -> None:
    """Add the magics to this shell, and show our errors as messages without a traceback."""
    for name, magic in {"qf_promote": promote, "qf_runs": runs, "qf_run": run}.items():
        shell.register_magic_function(magic, magic_kind="line", magic_name=name)
    shell.set_custom_exc((QuantflowError,), _show_error)


def promote(line: str) -> str:
    """``%qf_promote CONTRACT``: register a version and return its id."""
    if not line.strip():
        raise QuantflowError("%qf_promote needs a contract, such as: %qf_promote ../pipelines/momentum.toml")
    version = Registry(_log()).register(Path(line.strip()), promoted_by=getpass.getuser())
    return version.version_id


def runs(line: str) -> pd.DataFrame:
    """``%qf_runs [PIPELINE]``: the latest 20 runs, newest first, as a frame."""
    import pandas as pd

    page = list_runs(_log(), workflow_id=line.strip() or None, limit=20)
    columns = ["run_id", "workflow_id", "workflow_type", "state", "progress", "created_at"]
    return pd.DataFrame([run.model_dump(include=set(columns)) for run in page.runs], columns=columns)


def run(line: str) -> dict[str, Any]:
    """``%qf_run RUN_ID``: one run, with its tasks, result or error."""
    return get_run(_log(), line.strip()).model_dump(mode="json")


def _log() -> EventLog:
    return EventLog(Settings.load().database)


def _show_error(
    _shell: Any, _kind: type[BaseException], error: BaseException, _trace: Any, tb_offset: Any = None
) -> None:
    import sys

    sys.stderr.write(f"{type(error).__name__}: {error}\n")
