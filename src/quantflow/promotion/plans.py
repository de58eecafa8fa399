"""What rendering a DAG needs to know of a promoted pipeline, and nothing that is slow to import."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from quantflow.events.log import EventLog

__all__ = ["DAG_PREFIX", "PromotionPlan", "dag_id_of", "read_plans"]

#: Only DAGs whose id starts so are rendered from promoted versions and observed.
DAG_PREFIX = "quantflow__"


@dataclass(frozen=True)
class PromotionPlan:
    """The active version of one pipeline, as an orchestrator sees it.

    ``schedule`` is a cron expression in UTC, or None: only on request.
    """

    pipeline: str
    dag_id: str
    schedule: str | None
    owner: str
    version_id: str
    number: int
    description: str
    tags: tuple[str, ...]


def dag_id_of(pipeline: str) -> str:
    """Return the id of the DAG that runs a pipeline."""
    return f"{DAG_PREFIX}{pipeline}"


def read_plans(log: EventLog, *, pipeline: str | None = None) -> list[PromotionPlan]:
    """Return the plan of every active version, by pipeline name; or of one pipeline only.

    Raises
    ------
    LogUnavailableError
        The registry's database cannot be reached.
    """
    with log.transaction() as connection:
        rows = connection.execute(
            """
            SELECT v.pipeline, v.schedule, v.owner, v.version_id, v.number, v.description
            FROM registry_active a JOIN registry_versions v USING (version_id)
            WHERE %(pipeline)s::text IS NULL OR a.pipeline = %(pipeline)s
            ORDER BY v.pipeline
            """,
            {"pipeline": pipeline},
        ).fetchall()
    return [
        PromotionPlan(
            pipeline=name,
            dag_id=dag_id_of(name),
            schedule=schedule,
            owner=owner,
            version_id=version_id,
            number=number,
            description=description,
            tags=("quantflow", f"version {number}", version_id[:12]),
        )
        for name, schedule, owner, version_id, number, description in rows
    ]
