"""Draw what happened: a run's records as spans, its bounds, a waterfall, a page. Reads records only."""

from pipeline_engine.report.batch import BatchTrace, ErrorGroup, SlowDocument, StepTotals, Totals
from pipeline_engine.report.bounds import Bounds
from pipeline_engine.report.dag import StepFigures, draw_dag_svg
from pipeline_engine.report.html import render_html
from pipeline_engine.report.models import Acceptance, BreakerChange, Cooldown, Hedges, LimitPoint, ModelHistory
from pipeline_engine.report.observing import Observer
from pipeline_engine.report.present import ErrorCount, InFlight, ModelNow, Present
from pipeline_engine.report.spans import OutcomeName, Segment, SegmentKind, Span
from pipeline_engine.report.trace import Trace
from pipeline_engine.report.waterfall import draw_waterfall
from pipeline_engine.report.whatif import Scenario

__all__ = [
    "Acceptance",
    "BatchTrace",
    "Bounds",
    "BreakerChange",
    "Cooldown",
    "ErrorCount",
    "ErrorGroup",
    "Hedges",
    "InFlight",
    "LimitPoint",
    "ModelHistory",
    "ModelNow",
    "Observer",
    "OutcomeName",
    "Present",
    "Scenario",
    "Segment",
    "SegmentKind",
    "SlowDocument",
    "Span",
    "StepFigures",
    "StepTotals",
    "Totals",
    "Trace",
    "draw_dag_svg",
    "draw_waterfall",
    "render_html",
]
