"""A recipe applied to annotations: the decision about every row, its report, and the files that hold both."""

from curate.selection.explain import explain
from curate.selection.frame import Frame
from curate.selection.report import SelectionReport
from curate.selection.steps import Selection, StepResult, select

__all__ = ["Frame", "Selection", "SelectionReport", "StepResult", "explain", "select"]
