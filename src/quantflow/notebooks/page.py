"""What every page that we write shares: plotly.js inlined once, and a policy that nothing else runs.

A page opens from ``file://`` without a network. Its Content-Security-Policy names the hashes
of our own scripts, so a script that came in with data stays inert, and no page can connect
to anything.
"""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Mapping
from functools import cache
from typing import Any

__all__ = ["PLOTLY_MIME", "content_security_policy", "figure_scripts", "figure_slot", "json_for_script"]

PLOTLY_MIME = "application/vnd.plotly.v1+json"

_DRAW = """
(function () {
  "use strict";
  document.querySelectorAll("script.qf-figure-data").forEach(function (data) {
    var figure = JSON.parse(data.textContent);
    var place = document.createElement("div");
    place.className = "qf-figure";
    data.parentNode.insertBefore(place, data);
    Plotly.newPlot(place, figure.data, figure.layout, {responsive: true, displaylogo: false, displayModeBar: false});
  });
  window.addEventListener("beforeprint", function () {
    document.querySelectorAll(".qf-figure").forEach(function (place) { Plotly.Plots.resize(place); });
  });
})();
"""


def figure_slot(figure: Mapping[str, Any]) -> str:
    """Return the HTML that :func:`figure_scripts` turns into this Plotly figure."""
    kept = {"data": figure.get("data", []), "layout": figure.get("layout", {})}
    return f'<script type="application/json" class="qf-figure-data">{json_for_script(kept)}</script>'


def figure_scripts() -> str:
    """Return the scripts that draw every figure of the page; put them once, at its end."""
    return f"<script>{_plotly_js()}</script>\n<script>{_DRAW}</script>"


def content_security_policy(*, figures: bool) -> str:
    """Return the policy of a page: nothing is fetched, and only our own two scripts run."""
    scripts = " ".join(f"'sha256-{_digest(code)}'" for code in ((_plotly_js(), _DRAW) if figures else ()))
    return (
        f"default-src 'none'; script-src {scripts or repr('none')}; style-src 'unsafe-inline'; "
        "img-src data: blob:; font-src data:; base-uri 'none'; form-action 'none'"
    )


def json_for_script(value: Any) -> str:
    """Return JSON that cannot end the script element it stands in."""
    return json.dumps(value, separators=(",", ":")).replace("<", "\\u003c").replace("&", "\\u0026")


@cache
def _plotly_js() -> str:
    from plotly.offline import get_plotlyjs

    code: str = get_plotlyjs()
    # A parser would end the element there; the two spellings are equal inside JavaScript strings.
    return code.replace("</script", "<\\/script")


def _digest(code: str) -> str:
    return base64.b64encode(hashlib.sha256(code.encode()).digest()).decode()
