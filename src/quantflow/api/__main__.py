"""``python -m quantflow.api``: serve the API on ``QUANTFLOW_HOST:QUANTFLOW_API_PORT``."""

from __future__ import annotations

import logging

from quantflow.settings import Settings
from quantflow.telemetry import setup_logging


def main() -> None:
    """Serve until SIGTERM; requests in progress are finished, for at most 10 s."""
    import uvicorn

    from quantflow.api.app import create_app

    settings = Settings.load()
    setup_logging("api", level=settings.log_level)
    # The probes of /health, one line each.
    logging.getLogger("httpx").setLevel(logging.WARNING)
    uvicorn.run(
        create_app(settings),
        host=settings.host,
        port=settings.api_port,
        log_config=None,
        access_log=False,
        server_header=False,
        timeout_keep_alive=30,
        timeout_graceful_shutdown=10,
        limit_concurrency=1000,
    )


if __name__ == "__main__":
    main()
