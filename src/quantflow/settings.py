"""One settings object, built once at the top and passed down.

A value comes from, first match wins: an argument, the environment (``QUANTFLOW_*``),
a ``.env`` file in the working directory, the file of generated secrets
(``QUANTFLOW_HOME/secrets.env``, mode 0600), the default. A laptop and a cluster differ
only in these values; no code asks which of the two it runs on.
"""

from __future__ import annotations

import os
import secrets
import stat
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal
from urllib.parse import quote

from pydantic import Field, SecretStr, ValidationError, field_validator
from pydantic_settings import BaseSettings, DotEnvSettingsSource, PydanticBaseSettingsSource, SettingsConfigDict

from quantflow.errors import SettingsError

__all__ = ["GENERATED_SECRETS", "Settings", "ensure_secrets", "secrets_path"]

ENV_PREFIX = "QUANTFLOW_"

#: Settings that ``quantflow up`` generates at the first start and keeps in ``secrets.env``.
GENERATED_SECRETS = (
    "api_key",
    "database_password",
    "airflow_password",
    "airflow_jwt_secret",
    "airflow_fernet_key",
    "airflow_api_secret",
)

Port = Field(ge=1, le=65535)


class Settings(BaseSettings):
    """Everything that can differ between two installations.

    Each field is the environment variable ``QUANTFLOW_<FIELD>``. Addresses default to the
    local stack's; production sets them to the cluster's.
    """

    model_config = SettingsConfigDict(
        env_prefix=ENV_PREFIX, env_file=".env", extra="ignore", frozen=True, validate_default=True
    )

    home: Path = Field(default=Path(".quantflow"), description="Directory of all local state")
    project: Path = Field(default=Path("."), description="Directory that holds notebooks/, pipelines/ and dags/")

    host: str = Field(default="127.0.0.1", description="Address that local services listen on")
    kafka_port: int = Field(default=9092, ge=1, le=65535, description="Local broker")
    kafka_controller_port: int = Field(default=9093, ge=1, le=65535, description="Local broker's KRaft controller")
    postgres_port: int = Field(default=15432, ge=1, le=65535, description="Local PostgreSQL")
    airflow_port: int = Field(default=8080, ge=1, le=65535, description="Local Airflow web UI and REST API")
    api_port: int = Field(default=8000, ge=1, le=65535, description="Local quantflow API")
    llm_port: int = Field(default=8091, ge=1, le=65535, description="Local embedded language model")
    lab_port: int = Field(default=8888, ge=1, le=65535, description="JupyterLab of `make lab`")

    kafka_bootstrap: str = Field(default="", description="host:port[,host:port]; empty: the local broker")
    database_url: SecretStr = Field(
        default=SecretStr(""), description="postgresql:// address of the event log; empty: the local one"
    )
    airflow_url: str = Field(default="", description="Airflow's base address; empty: the local one")
    airflow_username: str = Field(default="quantflow", description="User for Airflow's REST API and web UI")
    api_url: str = Field(default="", description="The quantflow API's base address; empty: the local one")
    topic_prefix: str = Field(default="", description="Put before every topic and consumer group name")

    api_key: SecretStr = Field(default=SecretStr(""), description="Key that API clients send as X-API-Key")
    database_password: SecretStr = Field(default=SecretStr(""), description="Password of the local PostgreSQL")
    airflow_password: SecretStr = Field(default=SecretStr(""), description="Password of airflow_username")
    airflow_jwt_secret: SecretStr = Field(default=SecretStr(""), description="Signs Airflow's API tokens")
    airflow_fernet_key: SecretStr = Field(default=SecretStr(""), description="Encrypts Airflow's connections")
    airflow_api_secret: SecretStr = Field(default=SecretStr(""), description="Signs Airflow's web sessions")

    llm_backend: Literal["auto", "embedded", "ollama", "none"] = Field(
        default="auto", description="auto: Ollama where one answers, the embedded server otherwise"
    )
    llm_url: str = Field(default="", description="OpenAI-compatible address; empty: the local embedded server")
    llm_timeout_s: float = Field(default=60.0, gt=0, le=600, description="Time limit of one language model call")
    ollama_url: str = Field(default="http://127.0.0.1:11434", description="Where an Ollama is looked for")
    ollama_language_model: str = Field(default="", description="Name in Ollama; empty: the first one it lists")

    worker_concurrency: int = Field(default=2, ge=1, le=64, description="Graph runs at once in one worker")
    lease_s: float = Field(default=10.0, gt=0.5, le=600, description="A run's lease; a dead worker's run waits so long")
    max_event_bytes: int = Field(default=900_000, ge=1_000, le=10_000_000, description="Largest event accepted")
    log_level: Literal["debug", "info", "warning", "error"] = Field(default="info", description="Lowest level logged")
    cache_dir: Path = Field(
        default=Path("~/.cache/quantflow"), description="Downloaded artifacts and vendor answers, shared by homes"
    )

    @field_validator("home", "project", "cache_dir")
    @classmethod
    def _absolute(cls, value: Path) -> Path:
        return value.expanduser().absolute()

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        home = _home_of(init_settings, env_settings, dotenv_settings)
        generated = DotEnvSettingsSource(settings_cls, env_file=secrets_path(home))
        return init_settings, env_settings, dotenv_settings, generated

    @classmethod
    def load(cls, **values: Any) -> Settings:
        """Return the settings, or raise one error that names every bad variable.

        Raises
        ------
        SettingsError
            Names each variable, what it holds (secrets excepted) and what is allowed.
        """
        try:
            return cls(**values)
        except ValidationError as exc:
            raise SettingsError(_explain(exc)) from None

    @property
    def kafka(self) -> str:
        """Bootstrap servers of the broker."""
        return self.kafka_bootstrap or f"{self.host}:{self.kafka_port}"

    @property
    def database(self) -> str:
        """``postgresql://`` address of the event log, password included: never log it."""
        given = self.database_url.get_secret_value()
        return given or self.local_database("quantflow")

    def local_database(self, name: str) -> str:
        """``postgresql://`` address of a database in the local PostgreSQL."""
        password = quote(self.database_password.get_secret_value(), safe="")
        return f"postgresql://quantflow:{password}@{self.host}:{self.postgres_port}/{name}"

    @property
    def airflow(self) -> str:
        """Base address of Airflow, without a trailing slash."""
        return (self.airflow_url or f"http://{self.host}:{self.airflow_port}").rstrip("/")

    @property
    def api(self) -> str:
        """Base address of the quantflow API, without a trailing slash."""
        return (self.api_url or f"http://{self.host}:{self.api_port}").rstrip("/")

    @property
    def embedded_llm(self) -> str:
        """OpenAI-compatible base address (ending in ``/v1``) of the embedded language model."""
        return (self.llm_url or f"http://{self.host}:{self.llm_port}/v1").rstrip("/")

    def environment(self) -> dict[str, str]:
        """Environment of a child process that must see the same settings, secrets excepted.

        Secrets travel by file: the child reads ``secrets.env`` in the same home. Secrets that
        were given by environment are passed on by the caller's own environment.
        """
        values: dict[str, str] = {}
        for name in type(self).model_fields:
            value = getattr(self, name)
            if not isinstance(value, SecretStr):
                values[ENV_PREFIX + name.upper()] = str(value)
        return values


def secrets_path(home: Path) -> Path:
    """Where the generated secrets of a home are kept."""
    return home / "secrets.env"


def ensure_secrets(home: Path) -> Path:
    """Generate the secrets that a home lacks and return the file, of mode 0600.

    Existing values are never changed, so a second start keeps every password.
    """
    path = secrets_path(home)
    home.mkdir(parents=True, exist_ok=True)
    known = _read_secrets(path)
    missing = [name for name in GENERATED_SECRETS if ENV_PREFIX + name.upper() not in known]
    if missing or not path.exists():
        for name in missing:
            known[ENV_PREFIX + name.upper()] = _new_secret(name)
        _write_private(path, "".join(f"{key}={value}\n" for key, value in known.items()))
    if stat.S_IMODE(path.stat().st_mode) != 0o600:
        path.chmod(0o600)
    return path


def _new_secret(name: str) -> str:
    if name == "airflow_fernet_key":
        # Fernet wants exactly 32 bytes, urlsafe base64 with padding.
        import base64

        return base64.urlsafe_b64encode(secrets.token_bytes(32)).decode()
    if name == "api_key":
        return f"qf_{secrets.token_hex(24)}"
    return secrets.token_urlsafe(32)


def _read_secrets(path: Path) -> dict[str, str]:
    if not path.exists():
        return {}
    pairs = (line.split("=", 1) for line in path.read_text().splitlines() if "=" in line and not line.startswith("#"))
    return {key.strip(): value.strip() for key, value in pairs}


def _write_private(path: Path, text: str) -> None:
    temporary = path.with_suffix(f".{os.getpid()}.tmp")
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    with os.fdopen(descriptor, "w") as file:
        file.write(text)
    temporary.replace(path)


def _home_of(*sources: PydanticBaseSettingsSource) -> Path:
    for source in sources:
        values: Mapping[str, Any] = source()
        if values.get("home"):
            return Path(values["home"]).expanduser().absolute()
    return Path(".quantflow").absolute()


def _explain(exc: ValidationError) -> str:
    lines = []
    for problem in exc.errors():
        name = str(problem["loc"][0]) if problem["loc"] else "settings"
        field = Settings.model_fields.get(name)
        secret = field is not None and field.annotation is SecretStr
        received = "a secret" if secret else repr(problem.get("input"))
        lines.append(f"  - {ENV_PREFIX}{name.upper()} is {received}: {problem['msg']}")
    listing = "\n".join(lines)
    return f"settings are not valid:\n{listing}\nFix the environment or .env; .env.example lists every variable."
