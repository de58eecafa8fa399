"""Settings: where a value comes from, and what a wrong one says."""

from __future__ import annotations

import stat
from pathlib import Path

import pytest

from quantflow.errors import SettingsError
from quantflow.settings import GENERATED_SECRETS, Settings, ensure_secrets, secrets_path


@pytest.fixture(autouse=True)
def clean_environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    import os

    for name in [name for name in os.environ if name.startswith("QUANTFLOW_")]:
        monkeypatch.delenv(name)
    monkeypatch.chdir(tmp_path)


def test_local_addresses_follow_the_ports() -> None:
    settings = Settings.load(kafka_port=19092, airflow_port=18080)
    assert settings.kafka == "127.0.0.1:19092"
    assert settings.airflow == "http://127.0.0.1:18080"


def test_a_cluster_differs_only_in_values() -> None:
    settings = Settings.load(kafka_bootstrap="b1:9092,b2:9092", airflow_url="https://airflow.example/")
    assert settings.kafka == "b1:9092,b2:9092"
    assert settings.airflow == "https://airflow.example"


def test_argument_beats_environment_beats_env_file_beats_generated_secret(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    home = tmp_path / "home"
    ensure_secrets(home)
    generated = Settings.load(home=home).api_key.get_secret_value()
    assert generated.startswith("qf_")
    (tmp_path / ".env").write_text("QUANTFLOW_API_KEY=from-file\n")
    assert Settings.load(home=home).api_key.get_secret_value() == "from-file"
    monkeypatch.setenv("QUANTFLOW_API_KEY", "from-environment")
    assert Settings.load(home=home).api_key.get_secret_value() == "from-environment"
    assert Settings.load(home=home, api_key="given").api_key.get_secret_value() == "given"


def test_home_from_the_environment_is_where_secrets_are_read(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    home = tmp_path / "elsewhere"
    ensure_secrets(home)
    monkeypatch.setenv("QUANTFLOW_HOME", str(home))
    assert Settings.load().database_password.get_secret_value() != ""


def test_secrets_file_is_private_and_never_changes(tmp_path: Path) -> None:
    path = ensure_secrets(tmp_path / "home")
    first = path.read_text()
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    path.chmod(0o644)
    assert ensure_secrets(tmp_path / "home").read_text() == first
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert len(first.splitlines()) == len(GENERATED_SECRETS)


def test_a_secret_that_is_missing_is_added_beside_the_others(tmp_path: Path) -> None:
    path = ensure_secrets(tmp_path / "home")
    kept = [line for line in path.read_text().splitlines() if not line.startswith("QUANTFLOW_API_KEY=")]
    path.write_text("\n".join(kept) + "\n")
    ensure_secrets(tmp_path / "home")
    assert set(kept) < set(path.read_text().splitlines())


def test_a_bad_value_names_variable_value_and_next_step(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("QUANTFLOW_KAFKA_PORT", "99999")
    monkeypatch.setenv("QUANTFLOW_LLM_BACKEND", "gpt")
    with pytest.raises(SettingsError) as caught:
        Settings.load()
    message = str(caught.value)
    assert "QUANTFLOW_KAFKA_PORT is '99999'" in message
    assert "QUANTFLOW_LLM_BACKEND is 'gpt'" in message
    assert ".env.example" in message


def test_a_childs_environment_carries_every_setting_but_no_secret(tmp_path: Path) -> None:
    ensure_secrets(tmp_path / "home")
    settings = Settings.load(home=tmp_path / "home", kafka_port=12345)
    environment = settings.environment()
    assert environment["QUANTFLOW_KAFKA_PORT"] == "12345"
    assert "QUANTFLOW_API_KEY" not in environment
    assert settings.api_key.get_secret_value() not in "".join(environment.values())


def test_secrets_are_not_shown_when_settings_are_printed(tmp_path: Path) -> None:
    ensure_secrets(tmp_path / "home")
    settings = Settings.load(home=tmp_path / "home")
    assert settings.api_key.get_secret_value() not in repr(settings)


def test_database_password_is_quoted_in_the_address() -> None:
    settings = Settings.load(database_password="p@ss/word")
    assert "p%40ss%2Fword@" in settings.database


def test_secrets_path_is_inside_the_home(tmp_path: Path) -> None:
    assert secrets_path(tmp_path) == tmp_path / "secrets.env"
