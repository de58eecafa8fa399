"""The registry: every promoted version, and which one of a pipeline is active."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from quantflow.errors import UnknownVersionError
from quantflow.events.types import PipelinePromoted
from quantflow.promotion.bundle import Bundle, read_bundle
from quantflow.promotion.contract import Contract
from quantflow.promotion.plans import PromotionPlan, read_plans
from quantflow.promotion.versions import write_version
from quantflow.telemetry import get_logger

if TYPE_CHECKING:
    from quantflow.events.log import EventLog

__all__ = ["Registry", "Version", "pipeline_stream"]

log = get_logger(__name__)

_COLUMNS = "v.pipeline, v.number, v.version_id, v.contract, v.manifest, v.promoted_by, v.promoted_at"


@dataclass(frozen=True)
class Version:
    """One promoted version of a pipeline. ``files`` holds the SHA-256 of each file by path."""

    pipeline: str
    number: int
    version_id: str
    contract: Contract
    files: Mapping[str, str]
    promoted_by: str
    promoted_at: datetime
    manifest: str

    @property
    def notebook(self) -> str:
        """Path of the notebook inside the version's directory."""
        return str(json.loads(self.manifest)["notebook"])


def pipeline_stream(pipeline: str) -> str:
    """Return the event log's stream of a pipeline."""
    return f"pipeline-{pipeline}"


class Registry:
    """Versions of pipelines in the event log's database; safe to share between threads."""

    def __init__(self, log: EventLog) -> None:
        self._log = log

    def register(self, contract_path: Path, *, promoted_by: str) -> Version:
        """Check a contract with all its files, store a version of them and make it the active one.

        Unchanged files give the active version again and write nothing. Files equal to an
        older version make that one active again, under its old number.

        Raises
        ------
        ContractError
            Names every problem; nothing was written.
        LogUnavailableError
            The database cannot be reached; nothing was written.
        """
        bundle = read_bundle(contract_path)
        pipeline = bundle.contract.pipeline
        with self._log.transaction() as connection:
            # Two promotions of one pipeline at once: one after the other.
            connection.execute("SELECT pg_advisory_xact_lock(hashtextextended(%s, 200))", (pipeline,))
            active = connection.execute(
                "SELECT version_id FROM registry_active WHERE pipeline = %s", (pipeline,)
            ).fetchone()
            if active is None or active[0] != bundle.version_id:
                number = self._store(connection, bundle, promoted_by)
                self._activate(connection, bundle, number, promoted_by)
                log.info("pipeline promoted", pipeline=pipeline, number=number, version_id=bundle.version_id)
        return self.get(bundle.version_id)

    def get(self, version_id: str) -> Version:
        """Return a version by its id.

        Raises
        ------
        UnknownVersionError
            There is none.
        """
        found = self._read("FROM registry_versions v WHERE v.version_id = %s", (version_id,))
        if not found:
            raise UnknownVersionError(f"no version {version_id!r} is registered; see: quantflow versions")
        return found[0]

    def active(self) -> list[Version]:
        """Return the active version of every pipeline, by pipeline name."""
        return self._read("FROM registry_active a JOIN registry_versions v USING (version_id) ORDER BY v.pipeline", ())

    def active_version(self, pipeline: str) -> Version:
        """Return the version that new runs of a pipeline use.

        Raises
        ------
        UnknownVersionError
            Nothing of that name was promoted; names what was.
        """
        found = self._read(
            "FROM registry_active a JOIN registry_versions v USING (version_id) WHERE a.pipeline = %s", (pipeline,)
        )
        if not found:
            known = ", ".join(repr(plan.pipeline) for plan in self.plans()) or "none"
            raise UnknownVersionError(
                f"no version of {pipeline!r} is promoted; promoted pipelines: {known}. "
                "Promote one with: quantflow promote pipelines/NAME.toml"
            )
        return found[0]

    def versions(self, pipeline: str | None = None) -> list[Version]:
        """Return every version, of one pipeline or of all: by pipeline, newest first."""
        return self._read(
            "FROM registry_versions v WHERE %s::text IS NULL OR v.pipeline = %s ORDER BY v.pipeline, v.number DESC",
            (pipeline, pipeline),
        )

    def plans(self) -> list[PromotionPlan]:
        """Return what an orchestrator must know of every active version.

        Code that must stay light calls :func:`quantflow.promotion.plans.read_plans` instead.
        """
        return read_plans(self._log)

    def materialise(self, version: Version | str, directory: Path) -> Path:
        """Write a version's stored bytes below ``directory`` and return its own directory there.

        Every hash is verified, also of a version that is there already. Safe for any number
        of processes at once.

        Raises
        ------
        UnknownVersionError
            There is no such version, or its stored bytes are damaged.
        """
        from quantflow.events.blobs import Blobs

        known = self.get(version) if isinstance(version, str) else version
        return write_version(directory, known.manifest.encode(), Blobs(self._log).get)

    def _store(self, connection: Any, bundle: Bundle, promoted_by: str) -> int:
        """Store files and row unless they are there; return the version's number."""
        from quantflow.events.blobs import Blobs

        known = connection.execute(
            "SELECT number FROM registry_versions WHERE version_id = %s", (bundle.version_id,)
        ).fetchone()
        if known is not None:
            return int(known[0])
        contract = bundle.contract
        blobs = Blobs(self._log)
        for content in bundle.files.values():
            blobs.put(content, connection=connection)
        (number,) = connection.execute(
            """
            INSERT INTO registry_versions
                (version_id, pipeline, number, contract, manifest, description, owner, schedule, promoted_by)
            SELECT %s, %s, coalesce(max(number), 0) + 1, %s, %s, %s, %s, %s, %s
            FROM registry_versions WHERE pipeline = %s
            RETURNING number
            """,
            (
                bundle.version_id,
                contract.pipeline,
                contract.model_dump_json(by_alias=True, exclude_none=True),
                bundle.manifest.decode(),
                contract.description,
                contract.owner,
                contract.schedule,
                promoted_by,
                contract.pipeline,
            ),
        ).fetchone()
        return int(number)

    def _activate(self, connection: Any, bundle: Bundle, number: int, promoted_by: str) -> None:
        from quantflow.events.log import Draft

        pipeline = bundle.contract.pipeline
        connection.execute(
            """
            INSERT INTO registry_active (pipeline, version_id, activated_by) VALUES (%s, %s, %s)
            ON CONFLICT (pipeline) DO UPDATE
            SET version_id = excluded.version_id, activated_by = excluded.activated_by, activated_at = now()
            """,
            (pipeline, bundle.version_id, promoted_by),
        )
        event = PipelinePromoted(
            pipeline=pipeline,
            version_id=bundle.version_id,
            number=number,
            owner=bundle.contract.owner,
            promoted_by=promoted_by,
        )
        self._log.append(pipeline_stream(pipeline), [Draft(event)], connection=connection)

    def _read(self, query: str, values: tuple[Any, ...]) -> list[Version]:
        with self._log.transaction() as connection:
            # Both parts of the statement are constants of this module.
            rows = connection.execute(f"SELECT {_COLUMNS} {query}".encode(), values).fetchall()
        return [_version(*row) for row in rows]


def _version(
    pipeline: str, number: int, version_id: str, contract: Any, manifest: str, promoted_by: str, promoted_at: datetime
) -> Version:
    return Version(
        pipeline=pipeline,
        number=number,
        version_id=version_id,
        contract=Contract.model_validate(contract),
        files=json.loads(manifest)["files"],
        promoted_by=promoted_by,
        promoted_at=promoted_at,
        manifest=manifest,
    )
