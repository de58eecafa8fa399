"""The report of a run: one offline HTML page, every string of it from the run."""

from quantflow.notebooks.report.model import LanguageModelUse, RunReport
from quantflow.notebooks.report.render import render_report

__all__ = ["LanguageModelUse", "RunReport", "render_report"]
