"""Update rules as values: optimizer, schedule and kind of gradient, one for all roles or one for each."""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Literal, get_args

from expunge.core.checks import above, at_least, between, one_of
from expunge.core.errors import RequestError

Optimizer = Literal["sgd", "adamw", "adamw8bit", "lion"]
WEIGHT_DECAY = 5e-4
"""The weight decay where none is given and that of an original does not apply."""


@dataclass(frozen=True)
class Rule:
    """An optimizer with its schedule and the kind of its gradient."""

    optimizer: Optimizer = "sgd"
    """SGD with momentum, AdamW (Loshchilov & Hutter 2019), AdamW with moments in eight bits (needs a GPU and the extra
    expunge[8bit]), or Lion (Chen et al. 2023)."""
    lr: float = 0.01
    """Learning rate at the peak of the schedule."""
    momentum: float = 0.9
    """Momentum of SGD; the first beta of AdamW and Lion."""
    beta2: float = 0.999
    """Second beta of AdamW; Lion was published with 0.99."""
    nesterov: bool = False
    """Nesterov momentum, for SGD."""
    weight_decay: float | None = None
    """L2 term for SGD; decoupled decay for AdamW and Lion. By default that of the original's training, where this is
    known and of the same kind; else 5e-4."""
    schedule: Literal["constant", "multistep", "cosine", "linear", "exponential"] = "constant"
    """Learning rate over the run: constant; times a factor at each milestone; half a cosine to 0; linear to 0; times
    the decay at each step."""
    milestones: tuple[float, ...] = (0.5, 0.75)
    """For multistep: the fractions of the run at which the rate is multiplied by the factor."""
    milestone_factor: float = 0.1
    """For multistep: the factor at each milestone."""
    decay: float = 0.995
    """For exponential: the factor by which the rate falls at each step."""
    warmup: float = 0.0
    """Fraction of the run over which the rate rises linearly from 0 to its peak."""
    clip: float | None = None
    """Largest L2 norm of the gradient over all weights, after masks; no clipping by default."""
    rho: float = 0.0
    """Radius of sharpness-aware minimisation (Foret et al. 2021); 0 for the plain gradient."""
    adaptive: bool = False
    """Scale the perturbation by the size of each weight (ASAM, Kwon et al. 2021)."""
    sharpness: Literal["min", "max"] = "min"
    """Whether sharpness is minimised or maximised (Sharp MinMax maximises it for the forget role)."""
    lamb: float = 1.0
    """Mixing weight: the direction is g + s lamb (g+ - g), s = 1 for min and -1 for max; g+ is perturbed."""
    as_released: bool = False
    """With rho and an update mask, mask only g+, as the released Sharp MinMax does: frozen weights then move by g. For
    comparisons with published numbers only."""

    def __post_init__(self) -> None:
        at_least(0, lr=self.lr, weight_decay=self.weight_decay, rho=self.rho, lamb=self.lamb)
        above(0, clip=self.clip)
        between(0, 1, momentum=self.momentum, beta2=self.beta2, warmup=self.warmup)
        between(0, 1, milestone_factor=self.milestone_factor, decay=self.decay)
        checks = {
            "momentum must be below 1": self.momentum < 1,
            "beta2 must be below 1": self.beta2 < 1,
            "milestones must be shares of the run in [0, 1], ascending": list(self.milestones)
            == sorted(each for each in self.milestones if 0 <= each <= 1),
            "milestone_factor must be above 0": self.milestone_factor > 0,
            "decay must be above 0": self.decay > 0,
            "nesterov needs sgd and a momentum above 0": not self.nesterov
            or (self.optimizer == "sgd" and self.momentum > 0),
            "optimizer must be sgd, adamw, adamw8bit or lion": self.optimizer in get_args(Optimizer),
            f"schedule must be one of {', '.join(_SCHEDULES)}": self.schedule in _SCHEDULES,
            "sharpness must be min or max": self.sharpness in ("min", "max"),
        }
        for message, holds in checks.items():
            if not holds:
                field = message.partition(" ")[0]
                raise RequestError(f"{message}, got {getattr(self, field)!r}")

    def rate(self, step: int, steps: int) -> float:
        """The learning rate of a step in 0..steps-1 of a run.

        Warm-up and all schedules but the exponential one, ``lr decay^step``, depend on step/steps alone.
        """
        progress = step / steps
        if progress < self.warmup:
            return self.lr * progress / self.warmup
        return self.lr * _SCHEDULES[self.schedule](self, step, progress)


@dataclass(frozen=True)
class PerRole:
    """One rule per role on the same weights, and a step for each role, in the order of the method's objectives.

    DualOptim (Zhong et al. 2025, arXiv:2504.15827) shares no moments; its ablations do.
    """

    forget: Rule
    """The rule of steps on the forget set."""
    retain: Rule
    """The rule of steps on the retain set."""
    share: Literal["nothing", "first", "second", "both"] = "nothing"
    """Which moments of the gradient the two rules share: first (momentum), second (of AdamW), or both."""

    def __post_init__(self) -> None:
        kinds = (self.forget.optimizer, self.retain.optimizer)
        one_of(("nothing", "first", "second", "both"), share=self.share)
        if not (self.share == "nothing" or kinds in _SHARING.get(self.share, ())):
            pairs = ", ".join("+".join(pair) for pair in _SHARING[self.share])
            raise RequestError(f"{'+'.join(kinds)} cannot share={self.share}; these forget+retain pairs can: {pairs}")
        if self.share == "first" and kinds[0] != kinds[1] and (self.forget.nesterov or self.retain.nesterov):
            raise RequestError("nesterov has no meaning where sgd shares its first moment with adamw")


_SHARING: Mapping[str, tuple[tuple[str, str], ...]] = {
    "first": (("sgd", "sgd"), ("lion", "lion"), ("adamw", "adamw"), ("adamw", "sgd"), ("sgd", "adamw")),
    "second": (("adamw", "adamw"),),
    "both": (("sgd", "sgd"), ("lion", "lion"), ("adamw", "adamw"), ("adamw8bit", "adamw8bit")),
}
"""The optimizers of forget and retain that can share these moments; sgd and lion have a first moment only."""


def _after_warmup(rule: Rule, progress: float) -> float:
    """Progress from the end of the warm-up, in [0, 1]."""
    return (progress - rule.warmup) / (1 - rule.warmup) if rule.warmup < 1 else 1.0


_SCHEDULES: Mapping[str, Callable[[Rule, int, float], float]] = {
    "constant": lambda rule, step, progress: 1.0,
    "multistep": lambda rule, step, progress: rule.milestone_factor ** sum(progress >= at for at in rule.milestones),
    "cosine": lambda rule, step, progress: 0.5 * (1 + math.cos(math.pi * _after_warmup(rule, progress))),
    "linear": lambda rule, step, progress: 1 - _after_warmup(rule, progress),
    "exponential": lambda rule, step, progress: rule.decay**step,
}
"""The rate after the warm-up, relative to its peak, from the step and the fraction of the run."""


def weight_decay_of(rule: Rule, original: Rule | None = None) -> float:
    """The weight decay of a rule: by default that of the original's, if both are an L2 term or both are decoupled."""
    if rule.weight_decay is not None:
        return rule.weight_decay
    same_kind = original is not None and (rule.optimizer == "sgd") == (original.optimizer == "sgd")
    return weight_decay_of(original) if original is not None and same_kind else WEIGHT_DECAY


def differentiable(rule: Rule | PerRole) -> Rule:
    """The rule, if recorded trainings support it: SGD, with or without momentum.

    Raises:
        RequestError: It is another.
    """
    if isinstance(rule, PerRole):
        raise RequestError("a recorded training follows one rule, not one for each role")
    wrong = {"optimizer=sgd": rule.optimizer != "sgd", "nesterov=false": rule.nesterov, "rho=0": rule.rho != 0}
    cures = [cure for cure, needed in wrong.items() if needed]
    if cures:
        raise RequestError(f"a recorded training differentiates plain steps of SGD: set {', '.join(cures)}")
    return rule
