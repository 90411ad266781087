"""The same run on a virtual clock: what a batch would take, and what a run would have taken otherwise."""

from pipeline_engine.simulation.assumptions import StepAssumptions
from pipeline_engine.simulation.clock import VirtualClock
from pipeline_engine.simulation.learning import learn
from pipeline_engine.simulation.result import Percentiles, SimulatedStep, Simulation
from pipeline_engine.simulation.simulating import simulate
from pipeline_engine.simulation.sweep import Sweep
from pipeline_engine.simulation.whatif import WhatIf, scenarios, what_if

__all__ = [
    "Percentiles",
    "SimulatedStep",
    "Simulation",
    "StepAssumptions",
    "Sweep",
    "VirtualClock",
    "WhatIf",
    "learn",
    "scenarios",
    "simulate",
    "what_if",
]
