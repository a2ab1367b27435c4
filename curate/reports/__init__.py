"""The report of a run: one HTML file that needs no network, runs nothing but its own script, and shows what was kept and why."""

from curate.reports.page import write_report

__all__ = ["write_report"]
