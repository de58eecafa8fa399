"""``/docs`` and ``/redoc`` without a content delivery network.

FastAPI's own pages load their scripts from one; these serve the copies that the package
``fastapi-offline`` carries, so the pages work where nothing outside can be reached.
"""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path

from fastapi import FastAPI
from fastapi.openapi.docs import get_redoc_html, get_swagger_ui_html
from fastapi.responses import HTMLResponse
from fastapi.staticfiles import StaticFiles

from quantflow.errors import PrerequisiteError

__all__ = ["OPEN_PATHS", "install"]

_ASSETS = "/docs/assets"
#: Paths that need no key: what they show says nothing about anybody's runs.
OPEN_PATHS = ("/docs", "/redoc", "/openapi.json")


def install(app: FastAPI) -> None:
    """Add ``/docs`` and ``/redoc`` to an application that was built without them."""
    app.mount(_ASSETS, StaticFiles(directory=_static_directory()), name="docs-assets")

    @app.get("/docs", include_in_schema=False)
    def docs() -> HTMLResponse:
        return get_swagger_ui_html(
            openapi_url="/openapi.json",
            title=app.title,
            oauth2_redirect_url=None,
            swagger_js_url=f"{_ASSETS}/swagger-ui-bundle.js",
            swagger_css_url=f"{_ASSETS}/swagger-ui.css",
            swagger_favicon_url=f"{_ASSETS}/favicon.png",
        )

    @app.get("/redoc", include_in_schema=False)
    def redoc() -> HTMLResponse:
        return get_redoc_html(
            openapi_url="/openapi.json",
            title=app.title,
            redoc_js_url=f"{_ASSETS}/redoc.standalone.js",
            redoc_favicon_url=f"{_ASSETS}/favicon.png",
            with_google_fonts=False,
        )


def _static_directory() -> Path:
    # Found, not imported: importing it would change nothing but cost time.
    spec = find_spec("fastapi_offline")
    if spec is None or spec.origin is None:
        raise PrerequisiteError("the API's pages need the package fastapi-offline. Install it with: make setup")
    return Path(spec.origin).parent / "static"
