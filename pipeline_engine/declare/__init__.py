"""What a user writes: the pipeline, its steps, roles and policies. Nothing here runs anything."""

from pipeline_engine.declare.budget import Budget
from pipeline_engine.declare.limits import Breaker, Limits
from pipeline_engine.declare.pipeline import Included, IncludedEach, Pipeline
from pipeline_engine.declare.policies import (
    INHERIT,
    Cache,
    Drop,
    EffectivePolicy,
    Hedge,
    Inherit,
    Kind,
    Policy,
    Retry,
    Timeout,
    Warm,
    WhenOpen,
    effective_policy,
)
from pipeline_engine.declare.roles import Model, ModelChain, Price, Role
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
    "Breaker",
    "Budget",
    "Cache",
    "Drop",
    "EffectivePolicy",
    "Executor",
    "Hedge",
    "Included",
    "IncludedEach",
    "Inherit",
    "Kind",
    "Limits",
    "Model",
    "ModelChain",
    "Pipeline",
    "Policy",
    "Price",
    "PromptStep",
    "Reference",
    "Retry",
    "Role",
    "Scope",
    "Step",
    "Timeout",
    "Warm",
    "WhenOpen",
    "as_messages",
    "effective_policy",
    "use",
]
