"""What a user writes: the pipeline, its steps, roles and policies. Nothing here runs anything."""

from pipeline_engine.declare.pipeline import Included, IncludedEach, Pipeline
from pipeline_engine.declare.policies import INHERIT, Drop, Inherit, Policy, Retry, Timeout, effective_policy
from pipeline_engine.declare.roles import Model, ModelChain, Role
from pipeline_engine.declare.steps import (
    NO_DEFAULT,
    Executor,
    PromptStep,
    Reference,
    Scope,
    Step,
    as_messages,
    use,
)

__all__ = [
    "INHERIT",
    "NO_DEFAULT",
    "Drop",
    "Executor",
    "Included",
    "IncludedEach",
    "Inherit",
    "Model",
    "ModelChain",
    "Pipeline",
    "Policy",
    "PromptStep",
    "Reference",
    "Retry",
    "Role",
    "Scope",
    "Step",
    "Timeout",
    "as_messages",
    "effective_policy",
    "use",
]
