"""An executed notebook as one HTML page: offline, sanitised, figures drawn."""

from __future__ import annotations

import copy
import re
import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Any

from quantflow.notebooks.page import PLOTLY_MIME, content_security_policy, figure_scripts, figure_slot

if TYPE_CHECKING:
    from nbformat import NotebookNode

__all__ = ["clean_html", "export_html"]

_TEMPLATES = Path(__file__).parent / "templates" / "nbconvert"
_MARK = "<!--quantflow-figures-->"

# Without widgets and scripts: neither works in a page that runs no foreign code.
_PRIORITY = [
    PLOTLY_MIME,
    "text/html",
    "text/markdown",
    "image/svg+xml",
    "image/png",
    "image/jpeg",
    "text/latex",
    "text/plain",
]

_TAGS = frozenset(
    {
        *("a", "abbr", "b", "blockquote", "br", "caption", "code", "col", "colgroup", "dd", "del", "div", "dl", "dt"),
        *("em", "h1", "h2", "h3", "h4", "h5", "h6", "hr", "i", "img", "li", "ol", "p", "pre", "s", "small", "span"),
        *("strong", "sub", "sup", "table", "tbody", "td", "tfoot", "th", "thead", "tr", "u", "ul"),
    }
)


def _image_attribute(_tag: str, name: str, value: str) -> bool:
    """Images are shown when they are part of the page; no other file or address is asked for."""
    return value.startswith("data:image/") if name == "src" else name in ("alt", "class", "width", "height")


_ATTRIBUTES: dict[str, Any] = {
    "*": ["class", "id", "title"],
    "a": ["href", "title"],
    "img": _image_attribute,
    "td": ["colspan", "rowspan", "align"],
    "th": ["colspan", "rowspan", "align", "scope"],
}
_DROPPED = re.compile(r"<(script|style|iframe|object|template)\b.*?</\1\s*>", re.IGNORECASE | re.DOTALL)


def export_html(notebook: NotebookNode, *, title: str) -> str:
    """Return the notebook as one page that needs neither a kernel nor a network.

    HTML in outputs and Markdown keeps its structure and loses everything that could run.
    Plotly figures are drawn by the one copy of plotly.js in the page.
    """
    from nbconvert import exporters
    from traitlets.config import Config

    shown = _presentable(notebook)
    shown.metadata["title"] = title
    figures = any(_has_figure(cell) for cell in shown.cells)
    # Untyped in nbconvert.
    exporter_class: Any = exporters.HTMLExporter
    exporter = exporter_class(
        config=Config({"NbConvertBase": {"display_data_priority": _PRIORITY}}),
        template_name="quantflow",
        extra_template_basedirs=[str(_TEMPLATES)],
        sanitize_html=True,
        # Images from files or addresses would be fetched; only embedded ones are shown.
        embed_images=False,
        mathjax_url="",
        require_js_url="",
    )
    exporter.register_filter("clean_html", clean_html)
    exporter.register_filter("figure_slot", figure_slot)
    with warnings.catch_warnings():
        # nbconvert's dependencies announce their own deprecations on every call.
        warnings.simplefilter("ignore")
        body, _ = exporter.from_notebook_node(
            shown, resources={"content_security_policy": content_security_policy(figures=figures)}
        )
    page: str = body.replace(_MARK, figure_scripts() if figures else "")
    return page


def clean_html(element: Any) -> str:
    """Return HTML with harmless tags and attributes only; scripts and styles go with their content."""
    import bleach  # type: ignore[import-untyped]

    text = element.decode() if isinstance(element, bytes) else str(element)
    cleaned: str = bleach.clean(
        _DROPPED.sub("", text),
        tags=_TAGS,
        attributes=_ATTRIBUTES,
        protocols=["http", "https", "mailto", "data"],
        strip=True,
    )
    return cleaned


def _presentable(notebook: NotebookNode) -> NotebookNode:
    """Return a copy whose outputs each have something that can be shown."""
    shown = copy.deepcopy(notebook)
    shown.metadata.pop("widgets", None)
    for cell in shown.cells:
        for output in cell.get("outputs", []):
            data = output.get("data")
            if data is not None and not any(kind in data for kind in _PRIORITY):
                output["data"] = {"text/plain": f"({', '.join(data) or 'nothing'}: cannot be shown in a page)"}
    return shown


def _has_figure(cell: NotebookNode) -> bool:
    return any(PLOTLY_MIME in output.get("data", {}) for output in cell.get("outputs", []))
