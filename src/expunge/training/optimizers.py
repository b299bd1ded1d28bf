"""The optimizers of rules: those of torch and Lion, and pairs that share moments of the gradient."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, cast

import torch
from lion_pytorch import Lion
from torch import Tensor, nn

from expunge.core.errors import RequestError
from expunge.training.rules import PerRole, Rule, weight_decay_of

EPSILON = 1e-8
"""Added to the root of AdamW's second moment, as in torch."""


def by_role(rule: Rule | PerRole, weights: list[nn.Parameter]) -> dict[str, torch.optim.Optimizer]:
    """The optimizer of each role; that of the empty role steps on the sum of all objectives."""
    if isinstance(rule, Rule):
        return {"": make(rule, weights)}
    forget, retain = rule.forget, rule.retain
    if rule.share == "nothing":
        return {"forget": make(forget, weights), "retain": make(retain, weights)}
    if forget.optimizer == retain.optimizer and (rule.share == "both" or forget.optimizer in ("sgd", "lion")):
        one = make(forget, weights)  # the whole state is shared
        return {"forget": one, "retain": one}

    def moment() -> _Moment:
        return _Moment([torch.zeros_like(weight) for weight in weights])

    first, second = moment(), moment()
    return {
        role: _WithMoments(
            weights,
            each,
            first if rule.share == "first" else moment(),
            None if each.optimizer == "sgd" else second if rule.share == "second" else moment(),
        )
        for role, each in (("forget", forget), ("retain", retain))
    }


def make(rule: Rule, weights: list[nn.Parameter]) -> torch.optim.Optimizer:
    """The optimizer of one rule.

    Raises:
        RequestError: It needs a library or a device that is not available.
    """
    betas, decay = (rule.momentum, rule.beta2), weight_decay_of(rule)
    if rule.optimizer == "sgd":
        fused = _fused(weights)
        return torch.optim.SGD(weights, rule.lr, rule.momentum, weight_decay=decay, nesterov=rule.nesterov, fused=fused)
    if rule.optimizer == "adamw":
        return torch.optim.AdamW(weights, rule.lr, betas, EPSILON, weight_decay=decay, fused=_fused(weights))
    if rule.optimizer == "adamw8bit":
        return _eight_bit(weights)(weights, lr=rule.lr, betas=betas, eps=EPSILON, weight_decay=decay)
    # Lion requires a positive rate when constructed; every step sets its own.
    return Lion(weights, lr=rule.lr or 1.0, betas=betas, weight_decay=decay)


def configure(optimizer: torch.optim.Optimizer, rule: Rule, rate: float) -> None:
    """Set the hyperparameters of an optimizer, which two rules may share, for a step of this rule at this rate."""
    for group in optimizer.param_groups:
        group["lr"], group["weight_decay"] = rate, weight_decay_of(rule)
        if "betas" in group:
            group["betas"] = (rule.momentum, rule.beta2)
        else:
            group["momentum"], group["nesterov"] = rule.momentum, rule.nesterov


def _fused(weights: list[nn.Parameter]) -> bool:
    """Whether torch has a fused update for these devices and types."""
    return all(weight.device.type in ("cpu", "cuda") and weight.is_floating_point() for weight in weights)


def _eight_bit(weights: list[nn.Parameter]) -> Callable[..., torch.optim.Optimizer]:
    """AdamW of bitsandbytes (Dettmers et al. 2022, arXiv:2110.02861)."""
    if weights[0].device.type != "cuda":
        raise RequestError("adamw8bit needs a GPU: take adamw here, or give --device cuda")
    try:
        import bitsandbytes  # noqa: PLC0415 - an extra  # pyright: ignore
    except ImportError as error:
        raise RequestError("adamw8bit needs the extra: pip install 'expunge[8bit]' (or take adamw)") from error
    return cast("Callable[..., torch.optim.Optimizer]", bitsandbytes.optim.AdamW8bit)  # pyright: ignore


@dataclass
class _Moment:
    """A running mean of the gradient or of its square, of one rule or shared by two."""

    tensors: list[Tensor]
    remaining: float = 1.0
    """The weight of the initial zero: the product of all betas so far."""

    def update(self, values: list[Tensor], beta: float) -> list[Tensor]:
        """Update the mean by the next values, and return it corrected for its bias."""
        torch._foreach_lerp_(self.tensors, values, 1 - beta)  # pyright: ignore
        self.remaining *= beta
        return list(torch._foreach_div(self.tensors, 1 - self.remaining))  # pyright: ignore


class _WithMoments(torch.optim.Optimizer):
    """AdamW, or SGD by a running mean of the gradient, with moments that two roles may share.

    The ablations of DualOptim (Zhong et al. 2025, arXiv:2504.15827, table 6). The bias correction of a shared moment
    counts the steps of both roles. SGD uses the mean ``m = beta m + (1 - beta) g``, which can be shared with AdamW,
    instead of torch's sum ``beta b + g``.
    """

    def __init__(self, weights: list[nn.Parameter], rule: Rule, first: _Moment, second: _Moment | None) -> None:
        super().__init__(
            weights, {"lr": rule.lr, "betas": (rule.momentum, rule.beta2), "weight_decay": weight_decay_of(rule)}
        )
        self.first, self.second = first, second
        for position, weight in enumerate(weights):
            self.state[weight]["first"] = first.tensors[position]
            if second is not None:
                self.state[weight]["second"] = second.tensors[position]

    @torch.no_grad()
    def step(self, closure: Any = None) -> None:  # pyright: ignore[reportIncompatibleMethodOverride]
        """Update the weights; a missing gradient counts as zero."""
        (group,) = self.param_groups
        weights = cast("list[Tensor]", group["params"])
        gradients = [torch.zeros_like(weight) if weight.grad is None else weight.grad for weight in weights]
        rate, decay, (beta1, beta2) = group["lr"], group["weight_decay"], group["betas"]
        if self.second is None:
            gradients = torch._foreach_add(gradients, weights, alpha=decay)  # pyright: ignore
            self.first.update(list(gradients), beta1)
            torch._foreach_add_(weights, self.first.tensors, alpha=-rate)  # pyright: ignore
            return
        mean = self.first.update(gradients, beta1)
        square = self.second.update(list(torch._foreach_mul(gradients, gradients)), beta2)  # pyright: ignore
        torch._foreach_mul_(weights, 1 - rate * decay)  # pyright: ignore
        for weight, m, v in zip(weights, mean, square, strict=True):
            # Where this role has had no gradient yet, v is 0, but a shared m may not be.
            weight.sub_(torch.where(v > 0, rate * m / (v.sqrt() + EPSILON), 0.0))
