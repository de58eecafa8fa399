"""Executed notebooks as pages: sanitised, offline, readable."""

from __future__ import annotations

import re

import nbformat

from quantflow.notebooks.export import clean_html, export_html

FIGURE = {"data": [{"type": "scatter", "y": [1, 2]}], "layout": {"title": {"text": "</script><script>evil()</script>"}}}


def page(*outputs: dict, markdown: str = "# Title") -> str:
    cell = nbformat.v4.new_code_cell(
        "1 + 1", outputs=[nbformat.v4.new_output("display_data", data) for data in outputs]
    )
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_markdown_cell(markdown), cell])
    return export_html(notebook, title="A page")


def test_a_page_fetches_nothing():
    html = page({"text/plain": "2"})
    assert not re.search(r"<(?:script|link|iframe)[^>]+(?:src|href)=", html)
    assert "cdnjs" not in html
    assert "Content-Security-Policy" in html
    assert "script-src 'none'" in html
    assert "<title>A page</title>" in html


def test_figures_are_drawn_by_one_copy_of_plotly_and_cannot_break_out():
    html = page({"application/vnd.plotly.v1+json": FIGURE}, {"application/vnd.plotly.v1+json": FIGURE})
    assert html.count('class="qf-figure-data"') == 2
    assert html.count("plotly.js v") == 1
    assert "<script>evil()" not in html
    assert html.count("sha256-") == 2


def test_what_could_run_is_removed_with_its_content():
    html = page(
        {"text/html": "<b>kept</b><script>evil()</script><style>p{}</style><img src='x' onerror='evil()'>"},
        {"application/javascript": "evil()"},
        {"text/html": "<a href='javascript:evil()'>link</a><iframe src='http://x'></iframe>"},
        markdown="# Kept\n\n<script>evil()</script><svg onload=evil()></svg>",
    )
    assert "<b>kept</b>" in html
    assert "evil()" not in html
    assert "javascript:evil" not in html
    assert "src=" not in html
    assert "<iframe" not in html


def test_tables_and_headings_keep_their_structure():
    html = page({"text/html": "<table><thead><tr><th>a</th></tr></thead></table>"}, markdown="## Two\n\n- one")
    assert "<th>a</th>" in html
    assert re.search(r"<h2[^>]*>Two", html)
    assert "<li>one</li>" in html


def test_an_output_that_cannot_be_shown_says_so():
    assert "application/x-odd: cannot be shown in a page" in page({"application/x-odd": "1"})


def test_text_keeps_its_angle_brackets():
    assert "&lt;signal momentum&gt;" in page({"text/plain": "<signal momentum>"})


def test_cleaning_takes_bytes_and_text():
    assert clean_html(b"<b>x</b><script>y</script>") == "<b>x</b>"
