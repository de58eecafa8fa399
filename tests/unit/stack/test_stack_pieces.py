"""Services, ports, configuration: what can be said without starting anything."""

from __future__ import annotations

import json
import os
import socket
import stat
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from quantflow.errors import PortBusyError, StackError
from quantflow.settings import Settings, ensure_secrets
from quantflow.stack import airflow_environment, local_services
from quantflow.stack.airflow import prepare_airflow
from quantflow.stack.doctor import examine
from quantflow.stack.kafka import broker_answers
from quantflow.stack.layout import Layout, read_json, write_json
from quantflow.stack.processes import check_ports, port_holder, usage
from quantflow.stack.services import select
from quantflow.testing.stack import free_ports
from quantflow.testing.wait import wait_until


@pytest.fixture
def settings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Settings:
    for name in [name for name in os.environ if name.startswith("QUANTFLOW_")]:
        monkeypatch.delenv(name)
    monkeypatch.chdir(tmp_path)
    ensure_secrets(tmp_path / "home")
    return Settings.load(home=tmp_path / "home", project=tmp_path, llm_backend="embedded")


def test_every_need_is_a_service_that_comes_earlier(settings: Settings) -> None:
    seen: set[str] = set()
    for service in local_services(settings).values():
        assert set(service.needs) <= seen | {"kafka", "postgres"}
        seen.add(service.name)


def test_the_api_starts_without_a_broker(settings: Settings) -> None:
    services = local_services(settings)
    assert "kafka" not in select(services, ["api"])
    assert select(services, ["api"]) == ["postgres", "migrate", "api"]


@pytest.mark.parametrize(
    ("name", "value", "absent"),
    [
        ("kafka_bootstrap", "broker.example:9092", {"kafka"}),
        ("airflow_url", "https://airflow.example", {"airflow-scheduler", "airflow-api-server", "airflow-migrate"}),
        ("api_url", "https://api.example", {"api"}),
        ("llm_url", "http://llm.example/v1", {"llm"}),
        ("llm_backend", "none", {"llm"}),
    ],
)
def test_a_part_that_is_elsewhere_is_not_started_here(
    settings: Settings, name: str, value: str, absent: set[str]
) -> None:
    services = local_services(Settings.load(**{**dict(settings), name: value}))
    assert not absent & services.keys()
    assert all(set(service.needs) <= services.keys() for service in services.values())


def test_postgresql_runs_here_as_long_as_airflow_does(settings: Settings) -> None:
    elsewhere = {**dict(settings), "database_url": "postgresql://db.example/quantflow"}
    assert "postgres" in local_services(Settings.load(**elsewhere))
    elsewhere["airflow_url"] = "https://airflow.example"
    assert "postgres" not in local_services(Settings.load(**elsewhere))


def test_an_unknown_service_is_refused_with_the_known_ones(settings: Settings) -> None:
    with pytest.raises(StackError, match=r"'kafak'.*kafka, postgres"):
        select(local_services(settings), ["kafak"])


def test_a_busy_port_is_named_with_its_setting_and_its_holder() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        with pytest.raises(PortBusyError) as caught:
            check_ports("127.0.0.1", [("PostgreSQL", "postgres_port", port)])
    message = str(caught.value)
    assert f"port {port} (QUANTFLOW_POSTGRES_PORT, for PostgreSQL)" in message
    assert f"process {os.getpid()}" in message


def test_free_ports_raise_nothing() -> None:
    ports = free_ports(3)
    assert len(set(ports)) == 3
    check_ports("127.0.0.1", [("x", "x_port", port) for port in ports])
    assert "may not be seen" in port_holder(ports[0])


def test_usage_counts_this_process_and_nothing_of_one_that_ended() -> None:
    found = usage(os.getpid())
    assert found.processes >= 1
    assert 0 < found.pss <= found.rss
    assert usage(2**22 + 1).processes == 0


def test_a_home_has_one_name_however_it_is_spelled(tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(tmp_path)
    assert Layout(tmp_path / "link" / "home").stack_id == Layout(tmp_path / "home").stack_id
    assert Layout(tmp_path / "other").stack_id != Layout(tmp_path / "home").stack_id


def test_a_state_file_is_private_and_reads_as_it_was_written(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "state.json"
    assert read_json(path) == {}
    write_json(path, {"a": [1]})
    assert read_json(path) == {"a": [1]}
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert [found.name for found in path.parent.iterdir()] == ["state.json"]


def test_airflow_is_told_every_timeout_and_address(settings: Settings) -> None:
    environment = airflow_environment(settings)
    assert environment["AIRFLOW__CORE__EXECUTOR"] == "LocalExecutor"
    assert environment["AIRFLOW__CORE__LOAD_EXAMPLES"] == "False"
    assert environment["AIRFLOW__CORE__DAGS_FOLDER"] == str(settings.project / "dags")
    assert environment["AIRFLOW__API__HOST"] == "127.0.0.1"
    assert environment["AIRFLOW__API__PORT"] == str(settings.airflow_port)
    assert environment["AIRFLOW__CORE__EXECUTION_API_SERVER_URL"] == "http://127.0.0.1:8080/execution/"
    assert float(environment["AIRFLOW__SCHEDULER__TASK_INSTANCE_HEARTBEAT_TIMEOUT"]) <= 30
    assert float(environment["AIRFLOW__DAG_PROCESSOR__MIN_FILE_PROCESS_INTERVAL"]) <= 5
    assert environment["AIRFLOW__DATABASE__SQL_ALCHEMY_CONN"].startswith("postgresql+psycopg2://quantflow:")
    assert environment["QUANTFLOW_HOME"] == str(settings.home)


def test_a_service_does_not_show_its_secrets(settings: Settings) -> None:
    shown = repr(local_services(settings))
    for name in ("database_password", "airflow_password", "airflow_fernet_key", "airflow_jwt_secret"):
        assert getattr(settings, name).get_secret_value() not in shown


def test_the_password_that_airflow_reads_is_private(settings: Settings) -> None:
    prepare_airflow(settings, Layout(settings.home))
    (path,) = settings.home.glob("airflow/passwords.json")
    assert json.loads(path.read_text()) == {"quantflow": settings.airflow_password.get_secret_value()}
    assert stat.S_IMODE(path.stat().st_mode) == 0o600


@contextmanager
def server_that_says(answer: bytes) -> Iterator[str]:
    """A server that answers one connection with these bytes."""
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def serve() -> None:
            connection, _ = listener.accept()
            with connection:
                connection.recv(4096)
                connection.sendall(answer)

        thread = threading.Thread(target=serve)
        thread.start()
        yield f"127.0.0.1:{listener.getsockname()[1]}"
        thread.join(5)


def test_what_is_not_a_broker_is_not_taken_for_one() -> None:
    with server_that_says(b"HTTP/1.1 400 Bad Request\r\n\r\n") as address:
        assert not broker_answers(address, timeout_s=1)
    assert not broker_answers(f"127.0.0.1:{free_ports(1)[0]}")
    assert not broker_answers("nonsense")


def test_a_broker_that_is_still_fenced_is_not_ready() -> None:
    with server_that_says(b"\0\0\0\x08" + b"\0\0\0\x01" + b"\0\0\0\0") as address:
        assert not broker_answers(address, timeout_s=1)


def test_doctor_finds_everything_here_and_names_what_is_missing(settings: Settings) -> None:
    ports = dict(
        zip(("kafka_port", "kafka_controller_port", "postgres_port", "airflow_port"), free_ports(4), strict=True)
    )
    with socket.create_server(("127.0.0.1", 0)) as taken:
        ports["api_port"] = taken.getsockname()[1]
        findings = {f.subject: f for f in examine(Settings.load(**{**dict(settings), **ports, "llm_backend": "none"}))}
    assert findings["Python"].verdict == "ok"
    assert findings["home"].verdict == "ok"
    assert findings["ports"].verdict == "missing"
    assert "QUANTFLOW_API_PORT" in findings["ports"].found
    assert all(finding.remedy for finding in findings.values() if finding.verdict == "missing")


def test_waiting_returns_what_was_found_and_names_what_was_not() -> None:
    answers = iter([None, 0, "found"])
    assert wait_until(lambda: next(answers), 5, "an answer") == "found"
    with pytest.raises(TimeoutError, match=r"waited 0\.1 s for the moon"):
        wait_until(lambda: None, 0.1, lambda: "the moon")


def test_a_download_trusts_what_the_system_trusts(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    from quantflow.stack.kafka import _system_certificates

    bundle = tmp_path / "system.pem"
    bundle.write_text("")
    for name in ("REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("SSL_CERT_FILE", str(bundle))
    with _system_certificates():
        assert os.environ["REQUESTS_CA_BUNDLE"] == str(bundle)
    assert "REQUESTS_CA_BUNDLE" not in os.environ
    monkeypatch.setenv("REQUESTS_CA_BUNDLE", "given")
    with _system_certificates():
        assert os.environ["REQUESTS_CA_BUNDLE"] == "given"
