"""Losses that several methods use, in float32 for any precision of the forward pass."""

from collections.abc import Iterable

import torch
from torch import Tensor
from torch.nn import functional


def cross_entropy(logits: Tensor, labels: Tensor, label_smoothing: float = 0.0) -> Tensor:
    """Mean cross-entropy of (batch, classes) logits against (batch,) labels, in nats."""
    return functional.cross_entropy(logits.float(), labels, label_smoothing=label_smoothing)


def distillation(student: Tensor, teacher: Tensor, temperature: float) -> Tensor:
    """Distillation loss ``T^2 KL(softmax(teacher/T) || softmax(student/T))``, mean over the batch.

    Hinton et al. 2015 (arXiv:1503.02531); the factor ``T^2`` keeps gradients of the same size for every T.
    Both arguments are (batch, classes) logits.
    """
    return divergence(student, teacher, temperature).mean()


def divergence(student: Tensor, teacher: Tensor, temperature: float) -> Tensor:
    """``T^2 KL(softmax(teacher/T) || softmax(student/T))`` of each example (batch,) from logits (batch, classes)."""
    log_student = functional.log_softmax(student.float() / temperature, dim=1)
    log_teacher = functional.log_softmax(teacher.float() / temperature, dim=1)
    return temperature**2 * functional.kl_div(log_student, log_teacher, reduction="none", log_target=True).sum(dim=1)


def l1_penalty(weights: Iterable[Tensor], alpha: float) -> Tensor | float:
    """``alpha ||w||_1`` over all weights; 0 without computing the norm if alpha is 0."""
    return alpha * torch.stack([weight.abs().sum() for weight in weights]).sum() if alpha > 0 else 0.0
