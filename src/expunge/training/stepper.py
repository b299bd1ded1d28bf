"""Training steps on objectives by role.

A method gives the objectives, as closures by role; the stepper applies optimizer, schedule, sharpness-aware
gradients, clipping, precision, sparsity and update masks.
"""

import math
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from expunge.core import masks
from expunge.core.errors import RequestError, RunError
from expunge.core.masks import Mask
from expunge.core.weights import trainable
from expunge.training import optimizers
from expunge.training.precision import Precision, fastest_layout, gains
from expunge.training.rules import PerRole, Rule

Objective = Callable[[], Tensor]

CHECK_EVERY = 64
"""Steps between two checks of the losses, which synchronise with the device."""


@dataclass(frozen=True)
class Progress:
    """The progress of a stepper: ``step`` of ``steps`` calls."""

    step: int
    steps: int


class Stepper:
    """Trains a model by a rule: ``step(retain=lambda: loss)`` takes one step.

    With a :class:`Rule`, one step is taken on the sum of the objectives; with :class:`PerRole`, one step per
    objective, in the order given, each by the rule of its role. Losses stay on the device until :meth:`history` or
    :meth:`check`. A step costs one forward and backward pass per objective, two with ``rho``.
    """

    def __init__(
        self,
        model: nn.Module,
        rule: Rule | PerRole,
        steps: int,
        *,
        first: int = 0,
        device: torch.device,
        precision: Precision = "float32",
        sparsity: Mask | None = None,
        update_masks: Mask | Mapping[str, Mask] | None = None,
        freeze_statistics: bool = False,
        on_step: Callable[[Progress], None] | None = None,
    ) -> None:
        """``steps`` is the number of calls that the schedules span, ``first`` the position of the first call."""
        self.model = model
        self.steps = max(steps, 1)
        self.first = first
        self.taken = first
        self._on_step = on_step
        self._model_state = frozen_statistics if freeze_statistics else nullcontext
        self._autocast = precision == "bfloat16" or (precision == "mixed" and gains(model))
        fastest_layout(model)
        self._updates = _updates_of(model, rule, sparsity, update_masks)
        self.jointly = "" in self._updates
        """Whether all objectives of a call share one step on their sum."""
        self._losses: list[dict[str, Tensor]] = []
        self._rates: list[dict[str, float]] = []
        self._checked = 0

    def __call__(self, **objectives: Objective) -> None:
        """Take one step on the objectives, given as closures by role (``forget``, ``retain``).

        Raises:
            RunError: A loss of some recent step was not finite.
        """
        unknown = [role for role in objectives if not self.jointly and role not in self._updates]
        if unknown:
            raise ValueError(f"there is no rule for the role {unknown[0]!r}, only for {', '.join(self._updates)}")
        parts = {"": objectives} if self.jointly else {role: {role: each} for role, each in objectives.items()}
        now = Progress(self.taken, self.steps)
        losses: dict[str, Tensor] = {}
        rates: dict[str, float] = {}
        with self._model_state(self.model):
            for role, part in parts.items():
                rate = self._updates[role].apply(part, now, self._autocast, losses)
                rates |= dict.fromkeys(part, rate)
        self._losses.append(losses)
        self._rates.append(rates)
        self.taken += 1
        if self.taken % CHECK_EVERY == 0 or self.taken == self.steps:
            self.check()
        if self._on_step is not None:
            self._on_step(Progress(self.taken, self.steps))

    def check(self) -> None:
        """Raise a RunError for the first loss that is not finite; synchronises with the device."""
        for offset, losses in enumerate(_fetch(self._losses[self._checked :])):
            for role, loss in losses.items():
                if not math.isfinite(loss):
                    step = self._checked + offset
                    rate = self._rates[step][role]
                    raise RunError(
                        f"the {role} loss became {loss} at step {self.first + step + 1} of {self.steps}, "
                        f"where the learning rate was {rate:g}: try a smaller lr, or set clip"
                    )
        self._checked = len(self._losses)

    def set_lr(self, lr: float) -> None:
        """Set the learning rate at the peak of the schedule, of every role, from now on; momentum is kept."""
        for update in self._updates.values():
            update.rule = replace(update.rule, lr=lr)

    def sparsify(self, mask: Mask) -> None:
        """Set the sparsity mask: weights that are false in it are zero from now on; other momentum is kept."""
        for update in self._updates.values():
            update.sparsify(mask)

    def roles(self) -> dict[str, int]:
        """The number of steps of each role; does not synchronise with the device."""
        return dict(Counter(role for losses in self._losses for role in losses))

    def history(self) -> list[dict[str, object]]:
        """One record per step: ``{"step", "lr": by role, "loss": by role}``; synchronises with the device."""
        return [
            {"step": self.first + step + 1, "lr": rates, "loss": losses}
            for step, (rates, losses) in enumerate(zip(self._rates, _fetch(self._losses), strict=True))
        ]


def _fetch(records: list[dict[str, Tensor]]) -> list[dict[str, float]]:
    """All losses on the host, by one transfer."""
    if not records:
        return []
    values = iter(torch.stack([loss for record in records for loss in record.values()]).tolist())
    return [{role: next(values) for role in record} for record in records]


def _updates_of(
    model: nn.Module, rule: Rule | PerRole, sparsity: Mask | None, update_masks: Mask | Mapping[str, Mask] | None
) -> "dict[str, _Update]":
    """The update of each role, or of the empty role for a step on the sum of all objectives.

    Under one rule with a mask per role, a step on several objectives becomes one step for each by the same optimizer,
    as no single gradient could obey both masks.
    """
    weights = list(trainable(model).values())
    if not weights:
        raise RequestError("the model has no trainable weights: all have requires_grad=False")
    by_mask = isinstance(update_masks, Mapping) and not isinstance(update_masks, Mask)
    if isinstance(rule, Rule) and by_mask:
        rule = PerRole(rule, rule, "both")
    rules = {"forget": rule.forget, "retain": rule.retain} if isinstance(rule, PerRole) else {"": rule}
    shared = isinstance(rule, PerRole) and rule.share != "nothing"
    if by_mask and shared and "adamw8bit" in {each.optimizer for each in rules.values()}:
        raise RequestError("moments in eight bits cannot be shared under a mask for each role: take adamw")
    made = optimizers.by_role(rule, weights)
    masks_of = {role: update_masks.get(role) if by_mask else update_masks for role in rules}  # pyright: ignore
    return {
        role: _Update(model, each, made[role], sparsity, masks_of[role], shared)  # pyright: ignore
        for role, each in rules.items()
    }


class _Update:
    """The state of one rule: its optimizer, its masks, and how it takes a step."""

    def __init__(
        self,
        model: nn.Module,
        rule: Rule,
        optimizer: torch.optim.Optimizer,
        sparsity: Mask | None,
        update_mask: Mask | None,
        shared: bool,
    ) -> None:
        self.model = model
        self.rule = rule
        self.weights = list(trainable(model).values())
        self.optimizer = optimizer
        self.shared = shared
        """Whether another role uses the same moments."""
        self.frozen = None if update_mask is None else _outside(update_mask, model)
        """Entries outside the update mask."""
        self.pruned: list[Tensor] | None = None
        """Entries outside the sparsity mask."""
        self.masked = self.frozen
        """Entries outside either mask, which have no gradient."""
        if sparsity is not None:
            self.sparsify(sparsity)

    @torch.no_grad()
    def sparsify(self, mask: Mask) -> None:
        """Set the sparsity mask: weights outside it and their moments are zero from now on."""
        self.pruned = self.masked = _outside(mask, self.model)
        if self.frozen is not None:
            self.masked = [frozen | pruned for frozen, pruned in zip(self.frozen, self.pruned, strict=True)]
        for weight, pruned in zip(self.weights, self.pruned, strict=True):
            weight.masked_fill_(pruned, 0.0)
            for _, moment in self._moments(weight):
                moment.masked_fill_(pruned, 0.0)

    def apply(
        self, objectives: Mapping[str, Objective], now: Progress, autocast: bool, losses: dict[str, Tensor]
    ) -> float:
        """Take one step, note the losses, and return the learning rate."""
        rate = self.rule.rate(now.step, now.steps)
        optimizers.configure(self.optimizer, self.rule, rate)
        self._gradient(objectives, autocast, losses)
        with torch.no_grad():
            if self.masked is not None and not self._leaks():
                self._clear_gradient(self.masked)
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
        if self.pruned is not None:
            self._clear_gradient(self.pruned)  # perturbed weights must be zero too
        weights = [weight for weight in self.weights if weight.grad is not None]
        clean = [weight.grad for weight in weights if weight.grad is not None]
        saved = [weight.detach().clone() for weight in weights]
        with torch.no_grad():
            torch._foreach_add_(weights, perturbation(weights, clean, rule.rho, rule.adaptive))  # pyright: ignore
        with frozen_statistics(self.model):
            self._backward(objectives, autocast)
        with torch.no_grad():
            torch._foreach_copy_(weights, saved)  # pyright: ignore
            if self._leaks() and self.masked is not None:
                self._clear_gradient(self.masked)  # of the perturbed gradient alone
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

    def _clear_gradient(self, entries: list[Tensor]) -> None:
        for weight, where in zip(self.weights, entries, strict=True):
            if weight.grad is not None:
                weight.grad.masked_fill_(where, 0.0)

    def _leaks(self) -> bool:
        """Whether frozen weights move, as in the released Sharp MinMax."""
        return self.rule.as_released and self.rule.rho > 0

    def _before(self) -> "tuple[list[Tensor], list[dict[str, Tensor]]] | None":
        """Copies of weights and of shared moments; moments of frozen weights that are not shared are zero."""
        if self.frozen is None or self._leaks():
            return None
        moments = [dict(self._moments(weight)) for weight in self.weights] if self.shared else []
        copies = [{name: tensor.clone() for name, tensor in each.items()} for each in moments]
        return [weight.detach().clone() for weight in self.weights], copies

    def _moments(self, weight: nn.Parameter) -> Iterator[tuple[str, Tensor]]:
        """The tensors of a weight's shape in its optimizer's state.

        Not moments in eight bits, in which zero has another code: under a masked gradient they stay zero.
        """
        for name, state in self.optimizer.state[weight].items():
            if isinstance(state, Tensor) and state.shape == weight.shape and state.is_floating_point():
                yield name, state

    def _restore(self, before: tuple[list[Tensor], list[dict[str, Tensor]]] | None) -> None:
        """Undo the effect of momentum and weight decay on frozen and pruned weights and their moments."""
        if self.frozen is not None and before is not None:
            weights, moments = before
            for weight, frozen, old in zip(self.weights, self.frozen, weights, strict=True):
                weight.copy_(torch.where(frozen, old, weight))
            for weight, frozen, old in zip(self.weights, self.frozen, moments, strict=False):
                for name, state in self._moments(weight):  # unchanged for the other role
                    state.copy_(torch.where(frozen, old.get(name, 0.0), state))
        if self.pruned is not None:
            for weight, pruned in zip(self.weights, self.pruned, strict=True):
                weight.masked_fill_(pruned, 0.0)
        without_moments = self.pruned if self.shared or self._leaks() else self.masked
        if without_moments is not None:
            for weight, where in zip(self.weights, without_moments, strict=True):
                for _, state in self._moments(weight):
                    state.masked_fill_(where, 0.0)


def perturbation(weights: list[Tensor], gradients: list[Tensor], rho: float, adaptive: bool) -> list[Tensor]:
    """The ascent step of sharpness-aware minimisation: ``rho T^2 g / ||T g||``, the norm over all tensors.

    T is 1 (Foret et al. 2021, eq. 2), or the absolute weights if ``adaptive`` (ASAM: Kwon et al. 2021, eq. 4).
    """
    scaled = [g * w.detach().abs() if adaptive else g for w, g in zip(weights, gradients, strict=True)]
    norm = torch.stack([part.norm() for part in scaled]).norm()
    factor = rho / (norm + 1e-12)
    return [part * (w.detach().abs() if adaptive else 1.0) * factor for w, part in zip(weights, scaled, strict=True)]


@contextmanager
def frozen_statistics(model: nn.Module) -> Iterator[None]:
    """Within the block, batch normalisation uses batch statistics, but its running statistics keep their values.

    A momentum of 0 does this. A module without momentum averages over all batches, and must stop tracking instead.
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


def _outside(mask: Mask, model: nn.Module) -> list[Tensor]:
    """The complement of a mask, in the order of the trainable weights."""
    mask.check(model)
    return [~tensor for tensor in masks.over(mask, trainable(model)).values()]
