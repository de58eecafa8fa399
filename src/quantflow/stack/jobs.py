"""What happens before a server starts, and the jobs that run once: ``python -m quantflow.stack.jobs NAME``.

``kafka`` and ``postgres`` prepare their server and then become it; the others do their
work and end. Each runs under a guard of its own, so what it prints is in its service's log.
"""

from __future__ import annotations

import os
import pwd
import subprocess
import sys
from collections.abc import Callable
from contextlib import closing

from quantflow.errors import QuantflowError, StackError
from quantflow.settings import Settings
from quantflow.stack import airflow, guard, kafka, postgres
from quantflow.stack.layout import Layout

__all__ = ["JOBS", "main"]


def run_kafka(settings: Settings, layout: Layout) -> None:
    """Prepare the broker and become it."""
    kafka.prepare_kafka(settings, layout)
    _become(kafka.kafka_command(settings, layout))


def run_postgres(settings: Settings, layout: Layout) -> None:
    """Prepare the database server and become it."""
    server = postgres.prepare_postgres(settings, layout)
    _become(postgres.postgres_command(server), user=server.user)


def migrate(settings: Settings, _layout: Layout) -> None:
    """Bring the event log's tables up to date."""
    from quantflow.events.log import EventLog

    if not settings.database_url.get_secret_value():
        postgres.create_databases(settings)
    with EventLog.from_settings(settings, source="quantflow.migrate") as log:
        log.migrate()


def create_topics(settings: Settings, _layout: Layout) -> None:
    """Create the topics that are missing, with their settings."""
    from quantflow.events.topics import Topics
    from quantflow.events.transport import LibrdkafkaTransport

    topics = Topics(settings.topic_prefix, max_event_bytes=settings.max_event_bytes)
    with closing(LibrdkafkaTransport(settings.kafka).admin()) as admin:
        topics.ensure_all(admin)


def migrate_airflow(settings: Settings, layout: Layout) -> None:
    """Bring Airflow's tables up to date, which costs nothing when they are."""
    airflow.prepare_airflow(settings, layout)
    postgres.create_databases(settings)
    if not airflow.is_migrated(settings, layout):
        done = subprocess.run(airflow.airflow_command("db", "migrate"), check=False)
        if done.returncode:
            raise StackError(f"airflow db migrate ended with {done.returncode}; its output is above")
        airflow.note_migrated(settings, layout)


JOBS: dict[str, Callable[[Settings, Layout], None]] = {
    "kafka": run_kafka,
    "postgres": run_postgres,
    "migrate": migrate,
    "topics": create_topics,
    "airflow-migrate": migrate_airflow,
}


def _become(command: list[str], *, user: str = "") -> None:
    if user:
        owner = pwd.getpwnam(user)
        parent = os.getppid()
        os.initgroups(user, owner.pw_gid)
        os.setgid(owner.pw_gid)
        os.setuid(owner.pw_uid)
        os.environ["HOME"] = owner.pw_dir
        # The change of user cleared what the guard had arranged.
        guard.die_with(parent)
    sys.stdout.flush()
    os.execv(command[0], command)  # noqa: S606 - a list, never a shell


def main(argv: list[str] | None = None) -> int:
    """Run the job that the command line names."""
    (name,) = argv if argv is not None else sys.argv[1:]
    settings = Settings.load()
    try:
        JOBS[name](settings, Layout(settings.home))
    except QuantflowError as exc:
        sys.stderr.write(f"{name}: {exc}\n")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
