"""The adaptive loss of SFRon against the original implementation."""

import torch

from expunge.methods.sfron import adaptive_loss, adaptive_weights
from tests.golden import cases


def test_the_adaptive_loss_and_its_gradient() -> None:
    case = cases.load("sfron_parts")
    labels = cases.tiny_split("forget").labels
    for lamb in case.hyperparameters["lambdas"]:
        logits = case.tensors["logits"].clone().requires_grad_()
        loss = adaptive_loss(logits, labels, lamb)
        (gradient,) = torch.autograd.grad(loss, logits)
        for got, name in ((loss.detach(), "loss"), (gradient, "gradient")):
            expected = case.tensors[f"{name}.lambda_{lamb:g}"]
            torch.testing.assert_close(got, expected, rtol=case.rtol, atol=case.atol)


def test_the_weights_are_those_of_the_published_formula() -> None:
    case = cases.load("sfron_parts")
    losses = torch.nn.functional.cross_entropy(
        case.tensors["logits"], cases.tiny_split("forget").labels, reduction="none"
    )
    for lamb in case.hyperparameters["lambdas"]:
        powers = losses.double() ** -lamb
        torch.testing.assert_close(
            adaptive_weights(losses, lamb).double(), powers / powers.sum(), rtol=case.rtol, atol=case.atol
        )
