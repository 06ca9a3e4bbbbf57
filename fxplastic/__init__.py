"""fxplastic: exact duplication and pruning of neurons in any traceable PyTorch model."""

from fxplastic.api import plasticize
from fxplastic.budget import plan_budget
from fxplastic.classes import class_counts, class_weights
from fxplastic.controller import Plasticity
from fxplastic.coverage import Coverage, coverage
from fxplastic.errors import (
    DiscoverError,
    FxPlasticError,
    GuardError,
    ModelError,
    OptimizerError,
    PlanError,
    RankError,
    ReportError,
    RewriteError,
    SaveError,
    ScoreError,
    TraceError,
    TrainingError,
    WidthError,
)
from fxplastic.explain import Explanation, explain
from fxplastic.flow import Flow, flow
from fxplastic.forecast import Forecast, forecast
from fxplastic.groups import ChannelGroup, FrozenAxis, Site
from fxplastic.layouts import history
from fxplastic.module import PlasticModule
from fxplastic.plan import Plan
from fxplastic.planner import plan_turnover
from fxplastic.policy import Policy
from fxplastic.reporting import Report, group_dot, report
from fxplastic.rewrite import rewrite, rewrite_
from fxplastic.rewritten import Rewritten
from fxplastic.saving import Loaded, load, save
from fxplastic.schedule import Adaptive, Schedule
from fxplastic.scores import GradientScores
from fxplastic.turnover import Turnover
from fxplastic.view import group_graph
from fxplastic.width_planner import plan_widths

__version__ = "0.1.0"

__all__ = [
    "Adaptive",
    "ChannelGroup",
    "Coverage",
    "DiscoverError",
    "Explanation",
    "Flow",
    "Forecast",
    "FrozenAxis",
    "FxPlasticError",
    "GradientScores",
    "GuardError",
    "Loaded",
    "ModelError",
    "OptimizerError",
    "Plan",
    "PlanError",
    "PlasticModule",
    "Plasticity",
    "Policy",
    "RankError",
    "Report",
    "ReportError",
    "RewriteError",
    "Rewritten",
    "SaveError",
    "Schedule",
    "ScoreError",
    "Site",
    "TraceError",
    "TrainingError",
    "Turnover",
    "WidthError",
    "class_counts",
    "class_weights",
    "coverage",
    "explain",
    "flow",
    "forecast",
    "group_dot",
    "group_graph",
    "history",
    "load",
    "plan_budget",
    "plan_turnover",
    "plan_widths",
    "plasticize",
    "report",
    "rewrite",
    "rewrite_",
    "save",
]
