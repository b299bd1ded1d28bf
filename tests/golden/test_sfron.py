"""The adaptive loss of SFRon against the original implementation."""

import torch

from expunge.methods.sfron import adaptive_loss, adaptive_weights
from tests.golden import cases


def test_the_adaptive_loss_and_its_gradient() -> None:
    case = cases.load("sfron_parts")
    labels = cases.tiny_split("forget").labels
    for exponent in case.hyperparameters["lambdas"]:
        logits = case.tensors["logits"].clone().requires_grad_()
        loss = adaptive_loss(logits, labels, exponent)
        (gradient,) = torch.autograd.grad(loss, logits)
        for got, name in ((loss.detach(), "loss"), (gradient, "gradient")):
            expected = case.tensors[f"{name}.lambda_{exponent:g}"]
            torch.testing.assert_close(got, expected, rtol=case.rtol, atol=case.atol)


def test_the_weights_are_those_of_the_published_formula() -> None:
    case = cases.load("sfron_parts")
    losses = torch.nn.functional.cross_entropy(
        case.tensors["logits"], cases.tiny_split("forget").labels, reduction="none"
    )
    for exponent in case.hyperparameters["lambdas"]:
        powers = losses.double() ** -exponent
        torch.testing.assert_close(
            adaptive_weights(losses, exponent).double(), powers / powers.sum(), rtol=case.rtol, atol=case.atol
        )
