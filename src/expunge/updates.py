"""How named objectives become a step: ``Rule``, ``PerRole`` and ``Stepper``.

A method says *what* to minimise, as closures by role; the stepper knows *how*: optimizer, schedule,
sharpness-aware gradients, clipping, precision, sparsity and update masks live here and nowhere else.
"""

import math
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Literal

import torch
from lion_pytorch import Lion
from torch import Tensor, nn

from expunge import parameters
from expunge.errors import RequestError, RunError
from expunge.masks import Mask

Objective = Callable[[], Tensor]
Precision = Literal["auto", "float32", "bfloat16"]

CHECK_EVERY = 64
"""Steps between two looks at the losses on the device: the only place where a step waits for it."""


@dataclass(frozen=True)
class Rule:
    """One optimizer with its schedule and how its gradient is taken."""

    optimizer: Literal["sgd", "adamw", "lion"] = "sgd"
    """The update: SGD with momentum, AdamW (Loshchilov & Hutter 2019) or Lion (Chen et al. 2023)."""
    lr: float = 0.01
    """Learning rate at the peak of the schedule."""
    momentum: float = 0.9
    """Momentum of SGD; the first beta of AdamW and Lion."""
    beta2: float = 0.999
    """Second beta of AdamW; Lion was published with 0.99."""
    nesterov: bool = False
    """Nesterov momentum, for SGD."""
    weight_decay: float = 5e-4
    """L2 term for SGD; decoupled decay for AdamW and Lion."""
    schedule: Literal["constant", "multistep", "cosine", "linear"] = "constant"
    """Learning rate over the run: constant; times a factor at each milestone; half a cosine to 0; linear to 0."""
    milestones: tuple[float, ...] = (0.5, 0.75)
    """For multistep: the shares of the run at which the rate is multiplied by the factor."""
    milestone_factor: float = 0.1
    """For multistep: the factor at each milestone."""
    warmup: float = 0.0
    """Share of the run over which the rate rises linearly from 0 to its peak."""
    clip: float | None = None
    """Largest L2 norm of the gradient over all weights, after masks; none by default."""
    rho: float = 0.0
    """Radius of sharpness-aware minimisation (Foret et al. 2021); 0 takes the plain gradient."""
    adaptive: bool = False
    """Scale the perturbation by the size of each weight (ASAM, Kwon et al. 2021)."""
    sharpness: Literal["min", "max"] = "min"
    """Whether rho minimises or maximises sharpness (Sharp MinMax maximises it on the forget role)."""
    lamb: float = 1.0
    """Mixing weight: the direction is g + s lamb (g+ - g), s = 1 for min and -1 for max; g+ is perturbed."""

    def __post_init__(self) -> None:
        """Check every range, so that a bad value fails before the work."""
        checks = {
            "lr must be a finite number, at least 0": 0 <= self.lr < math.inf,
            "momentum must be in [0, 1)": 0 <= self.momentum < 1,
            "beta2 must be in [0, 1)": 0 <= self.beta2 < 1,
            "weight_decay must be at least 0": 0 <= self.weight_decay < math.inf,
            "milestones must be shares of the run in [0, 1], ascending": _ascending(self.milestones),
            "milestone_factor must be in (0, 1]": 0 < self.milestone_factor <= 1,
            "warmup must be in [0, 1]": 0 <= self.warmup <= 1,
            "clip must be above 0": self.clip is None or self.clip > 0,
            "rho must be at least 0": 0 <= self.rho < math.inf,
            "lamb must be at least 0": 0 <= self.lamb < math.inf,
            "nesterov needs sgd and a momentum above 0": not self.nesterov
            or (self.optimizer == "sgd" and self.momentum > 0),
            "optimizer must be sgd, adamw or lion": self.optimizer in ("sgd", "adamw", "lion"),
            "schedule must be constant, multistep, cosine or linear": self.schedule in _SCHEDULES,
            "sharpness must be min or max": self.sharpness in ("min", "max"),
        }
        for message, holds in checks.items():
            if not holds:
                field = message.partition(" ")[0]
                raise RequestError(f"{message}, got {getattr(self, field)!r}")

    def rate(self, progress: float) -> float:
        """The learning rate at a share of the run in [0, 1)."""
        if progress < self.warmup:
            return self.lr * progress / self.warmup
        return self.lr * _SCHEDULES[self.schedule](self, progress)


@dataclass(frozen=True)
class PerRole:
    """One rule per role, each with its own optimizer state, on the same weights.

    DualOptim (Zhong et al. 2025, arXiv:2504.15827): a step is taken per role, in the order in which the
    method names its objectives.
    """

    forget: Rule
    """The rule of steps on the forget set."""
    retain: Rule
    """The rule of steps on the retain set."""


@dataclass(frozen=True)
class Progress:
    """How far a stepper is: ``step`` of ``steps`` calls."""

    step: int
    steps: int


def _ascending(values: tuple[float, ...]) -> bool:
    return all(0 <= value <= 1 for value in values) and list(values) == sorted(values)


def _after_warmup(rule: Rule, progress: float) -> float:
    """Progress from the end of the warm-up, in [0, 1]."""
    return (progress - rule.warmup) / (1 - rule.warmup) if rule.warmup < 1 else 1.0


_SCHEDULES: Mapping[str, Callable[[Rule, float], float]] = {
    "constant": lambda rule, progress: 1.0,
    "multistep": lambda rule, progress: rule.milestone_factor ** sum(progress >= at for at in rule.milestones),
    "cosine": lambda rule, progress: 0.5 * (1 + math.cos(math.pi * _after_warmup(rule, progress))),
    "linear": lambda rule, progress: 1 - _after_warmup(rule, progress),
}


class Stepper:
    """Trains a model by a rule: ``step(retain=lambda: loss)`` takes one step.

    With a :class:`Rule`, one step is taken on the sum of the objectives given. With :class:`PerRole`, one
    step per objective, in the order given, each by the rule of its role. Losses stay on the device until
    :meth:`history` or the check every ``CHECK_EVERY`` steps asks for them. A step costs one forward and
    backward pass per objective, two with ``rho``.
    """

    def __init__(
        self,
        model: nn.Module,
        rule: Rule | PerRole,
        steps: int,
        *,
        device: torch.device,
        precision: Precision = "auto",
        sparsity: Mask | None = None,
        update_masks: Mask | Mapping[str, Mask] | None = None,
        on_step: Callable[[Progress], None] | None = None,
    ) -> None:
        """Prepare the optimizers; ``steps`` is the number of calls that the schedules span."""
        self.model = model
        self.steps = max(steps, 1)
        self.taken = 0
        self._on_step = on_step
        self._autocast = _autocast(model, device, precision)
        if _gains(model):
            model.to(memory_format=torch.channels_last)  # pyright: ignore[reportCallIssue]
        rules = {"forget": rule.forget, "retain": rule.retain} if isinstance(rule, PerRole) else {"": rule}
        self._updates = {role: _Update(model, r, sparsity, _mask_of(role, update_masks)) for role, r in rules.items()}
        self._losses: list[dict[str, Tensor]] = []
        self._rates: list[dict[str, float]] = []
        self._checked = 0

    def __call__(self, **objectives: Objective) -> None:
        """Take one step on the objectives, given as closures by role (``forget``, ``retain``).

        Raises:
            RunError: A loss of some recent step was not finite.
        """
        progress = self.taken / self.steps
        losses: dict[str, Tensor] = {}
        rates: dict[str, float] = {}
        for role, part in self._parts(objectives):
            rate = self._updates[role].apply(part, progress, self._autocast, losses)
            rates |= dict.fromkeys(part, rate)
        self._losses.append(losses)
        self._rates.append(rates)
        self.taken += 1
        if self.taken % CHECK_EVERY == 0 or self.taken == self.steps:
            self.check()
        if self._on_step is not None:
            self._on_step(Progress(self.taken, self.steps))

    def _parts(self, objectives: Mapping[str, Objective]) -> list[tuple[str, dict[str, Objective]]]:
        """What each optimizer steps on: everything, or one role each."""
        if "" in self._updates:
            return [("", dict(objectives))]
        unknown = [role for role in objectives if role not in self._updates]
        if unknown:
            raise ValueError(f"there is no rule for the role {unknown[0]!r}, only for {', '.join(self._updates)}")
        return [(role, {role: objective}) for role, objective in objectives.items()]

    def check(self) -> None:
        """Raise a RunError for the first loss that was not finite; waits for the device."""
        for offset, losses in enumerate(_fetch(self._losses[self._checked :])):
            for role, loss in losses.items():
                if not math.isfinite(loss):
                    step = self._checked + offset
                    rate = self._rates[step][role]
                    raise RunError(
                        f"the {role} loss became {loss} at step {step + 1} of {self.steps}, "
                        f"where the learning rate was {rate:g}: try a smaller lr, or set clip"
                    )
        self._checked = len(self._losses)

    def history(self) -> list[dict[str, object]]:
        """One record per step: ``{"step", "lr": by role, "loss": by role}``; waits for the device."""
        return [
            {"step": step + 1, "lr": rates, "loss": losses}
            for step, (rates, losses) in enumerate(zip(self._rates, _fetch(self._losses), strict=True))
        ]


def _fetch(records: list[dict[str, Tensor]]) -> list[dict[str, float]]:
    """Bring all losses to the host at once."""
    if not records:
        return []
    values = iter(torch.stack([loss for record in records for loss in record.values()]).tolist())
    return [{role: next(values) for role in record} for record in records]


def _mask_of(role: str, masks: Mask | Mapping[str, Mask] | None) -> Mask | None:
    if masks is None or isinstance(masks, Mask):
        return masks
    if not role:
        raise RequestError("one update mask per role needs a rule per role; give PerRole(forget=..., retain=...)")
    return masks.get(role)


LARGE_ENOUGH = 50_000
"""Weights from which bfloat16 pays on a CPU: `benchmarks/precision.py` measures it."""


def _autocast(model: nn.Module, device: torch.device, precision: Precision) -> bool:
    """Whether forward passes run in bfloat16: asked for, or the device has it and the model is large."""
    if precision != "auto":
        return precision == "bfloat16"
    return native_bfloat16(device) and _gains(model)


def _gains(model: nn.Module) -> bool:
    """Whether bfloat16 and channels-last make this model faster: it has convolutions and is not tiny."""
    convolutional = any(isinstance(module, nn.Conv2d) for module in model.modules())
    return convolutional and parameters.count(model) >= LARGE_ENOUGH


def native_bfloat16(device: torch.device) -> bool:
    """Whether the device multiplies bfloat16 matrices natively."""
    if device.type == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    if device.type != "cpu":
        return False
    capabilities: Mapping[str, object] = getattr(torch.cpu, "get_capabilities", dict)()  # from torch 2.8
    return bool(capabilities.get("avx512_bf16") or capabilities.get("amx_bf16"))


class _Update:
    """One rule at work: its optimizer, its masks, and how it takes a step."""

    def __init__(self, model: nn.Module, rule: Rule, sparsity: Mask | None, moving: Mask | None) -> None:
        named = parameters.trainable(model)
        if not named:
            raise RequestError("the model has no trainable weights: all have requires_grad=False")
        self.model = model
        self.rule = rule
        self.weights = list(named.values())
        self.optimizer = _optimizer(rule, self.weights)
        self.moving = _aligned(moving, model)
        self.kept = _aligned(sparsity, model)
        # Where sparsity holds from the start, a perturbed or decayed weight must not leave zero even once.
        self.gradient_mask = _both(self.moving, self.kept)

    def apply(
        self, objectives: Mapping[str, Objective], progress: float, autocast: bool, losses: dict[str, Tensor]
    ) -> float:
        """Take one step, note the losses, and return the learning rate."""
        rate = self.rule.rate(progress)
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        self._gradient(objectives, autocast, losses)
        with torch.no_grad():
            if self.gradient_mask is not None:
                self._mask(self.gradient_mask)
            if self.rule.clip is not None:
                nn.utils.clip_grad_norm_(self.weights, self.rule.clip)
            before = self._before()
            self.optimizer.step()
            self._restore(before)
        return rate

    def _gradient(self, objectives: Mapping[str, Objective], autocast: bool, losses: dict[str, Tensor]) -> None:
        """Leave the direction of the step in ``.grad``: g, or with rho g + s lamb (g+ - g)."""
        losses |= self._backward(objectives, autocast)
        rule = self.rule
        if rule.rho == 0:
            return
        if self.kept is not None:
            self._mask(self.kept)  # a perturbed weight must not leave zero
        weights = [weight for weight in self.weights if weight.grad is not None]
        clean = [weight.grad for weight in weights if weight.grad is not None]
        saved = [weight.detach().clone() for weight in weights]
        with torch.no_grad():
            torch._foreach_add_(weights, perturbation(weights, clean, rule.rho, rule.adaptive))  # pyright: ignore
        with _frozen_statistics(self.model):
            self._backward(objectives, autocast)
        with torch.no_grad():
            torch._foreach_copy_(weights, saved)  # pyright: ignore
            sign = 1.0 if rule.sharpness == "min" else -1.0
            for weight, gradient in zip(weights, clean, strict=True):
                perturbed = weight.grad if weight.grad is not None else gradient
                weight.grad = gradient + sign * rule.lamb * (perturbed - gradient)

    def _backward(self, objectives: Mapping[str, Objective], autocast: bool) -> dict[str, Tensor]:
        """The gradient of the sum of the objectives, into ``.grad``; the losses."""
        self.optimizer.zero_grad(set_to_none=True)
        with torch.autocast(self.weights[0].device.type, torch.bfloat16, enabled=autocast):
            losses = {role: objective() for role, objective in objectives.items()}
        torch.autograd.backward(list(losses.values()))
        return {role: loss.detach() for role, loss in losses.items()}

    def _mask(self, masks: list[Tensor]) -> None:
        for weight, mask in zip(self.weights, masks, strict=True):
            if weight.grad is not None:
                weight.grad.masked_fill_(~mask, 0.0)

    def _before(self) -> list[Tensor] | None:
        return [weight.detach().clone() for weight in self.weights] if self.moving is not None else None

    def _restore(self, before: list[Tensor] | None) -> None:
        """Undo what momentum and weight decay did to weights that may not move, and to their state."""
        if self.moving is not None and before is not None:
            for weight, mask, old in zip(self.weights, self.moving, before, strict=True):
                weight.copy_(torch.where(mask, weight, old))
        if self.kept is not None:
            for weight, mask in zip(self.weights, self.kept, strict=True):
                weight.masked_fill_(~mask, 0.0)
        if self.gradient_mask is not None:
            for weight, mask in zip(self.weights, self.gradient_mask, strict=True):
                for state in self.optimizer.state[weight].values():
                    if isinstance(state, Tensor) and state.shape == weight.shape:
                        state.masked_fill_(~mask, 0.0)


def perturbation(weights: list[Tensor], gradients: list[Tensor], rho: float, adaptive: bool) -> list[Tensor]:
    """The ascent step of sharpness-aware minimisation: ``rho T^2 g / ||T g||``, the norm over all tensors.

    T is 1 (Foret et al. 2021, eq. 2), or the absolute weights if ``adaptive`` (ASAM: Kwon et al. 2021, eq. 4).
    """
    scaled = [g * w.detach().abs() if adaptive else g for w, g in zip(weights, gradients, strict=True)]
    norm = torch.stack([part.norm() for part in scaled]).norm()
    factor = rho / (norm + 1e-12)
    return [part * (w.detach().abs() if adaptive else 1.0) * factor for w, part in zip(weights, scaled, strict=True)]


@contextmanager
def _frozen_statistics(model: nn.Module) -> Iterator[None]:
    """Batch normalisation still uses batch statistics, but its running ones keep their values.

    A momentum of 0 does this. A module without momentum averages over all batches that it counts, so it
    must not count: it stops tracking instead.
    """
    modules = [module for module in model.modules() if isinstance(module, nn.modules.batchnorm._NormBase)]  # pyright: ignore
    before = [(module, module.momentum, module.track_running_stats) for module in modules]
    for module, momentum, tracking in before:
        module.momentum = None if momentum is None else 0.0
        module.track_running_stats = tracking and momentum is not None
    try:
        yield
    finally:
        for module, momentum, tracking in before:
            module.momentum, module.track_running_stats = momentum, tracking


def _optimizer(rule: Rule, weights: list[nn.Parameter]) -> torch.optim.Optimizer:
    if rule.optimizer == "sgd":
        return torch.optim.SGD(
            weights,
            rule.lr,
            rule.momentum,
            weight_decay=rule.weight_decay,
            nesterov=rule.nesterov,
            fused=_fused(weights),
        )
    betas = (rule.momentum, rule.beta2)
    if rule.optimizer == "adamw":
        return torch.optim.AdamW(weights, rule.lr, betas, weight_decay=rule.weight_decay, fused=_fused(weights))
    # Lion insists on a positive rate when made; every step sets its own.
    return Lion(weights, lr=rule.lr or 1.0, betas=betas, weight_decay=rule.weight_decay)


def _fused(weights: list[nn.Parameter]) -> bool:
    """One kernel for the whole update, where torch has it for this device and type."""
    return all(weight.device.type in ("cpu", "cuda") and weight.is_floating_point() for weight in weights)


def _aligned(mask: Mask | None, model: nn.Module) -> list[Tensor] | None:
    """A mask as a list in the order of the trainable weights, true where it says nothing."""
    if mask is None:
        return None
    mask.check(model)
    return [
        mask[name].to(weight.device) if name in mask else torch.ones_like(weight, dtype=torch.bool)
        for name, weight in parameters.trainable(model).items()
    ]


def _both(first: list[Tensor] | None, second: list[Tensor] | None) -> list[Tensor] | None:
    if first is None or second is None:
        return first if second is None else second
    return [a & b for a, b in zip(first, second, strict=True)]
