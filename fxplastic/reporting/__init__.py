"""Reports of models, plans and runs: one page of HTML, tables for notebooks, plots, Graphviz."""

from fxplastic.reporting.document import Report, report
from fxplastic.reporting.dot import group_dot

__all__ = ["Report", "group_dot", "report"]
