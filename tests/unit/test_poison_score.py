"""Scores of remembered noise: closed form, autograd oracle, null distribution, memory."""

import pytest
import torch
from scipy import stats
from torch import Tensor, nn
from torch.nn import functional

from expunge.core.errors import RequestError, RunError
from expunge.data.image_set import ImageSet, TensorImages, make
from expunge.data.poisoning import poison
from expunge.data.poisons.gaussian import GaussianPoison, noise_of
from expunge.evaluation.gaussian_poison import gaussian_poison_scores
from expunge.evaluation.predictions import Subject
from expunge.metrics.gaussian_poison import measure
from expunge.training.context import Context
from tests import problems

CPU = torch.device("cpu")
SHAPE = (1, 12, 12)


def linear(classes: int = 3, seed: int = 0) -> nn.Sequential:
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return nn.Sequential(nn.Flatten(), nn.Linear(144, classes))


def images(count: int, classes: int = 3, seed: int = 0) -> ImageSet:
    generator = torch.Generator().manual_seed(seed)
    labels = torch.randint(classes, (count,), generator=generator)
    return make(torch.rand(count, *SHAPE, generator=generator), labels)


def noise(count: int, sigma: float = 1.0, seed: int = 0, shape: tuple[int, ...] = SHAPE) -> Tensor:
    return noise_of(torch.arange(count), shape, GaussianPoison(sigma=sigma, count=1, seed=seed))


def test_closed_form_of_two_classes() -> None:
    """A linear model of two classes has -grad L = (1 - p_y) (w_y - w_other), whatever the image."""
    model, data, drawn = linear(2), images(9, 2), noise(9, 0.4)
    weight = model[1].weight.detach().double()
    across = weight[data.labels] - weight[1 - data.labels]
    expected = (across * drawn.flatten(1)).sum(dim=1) / (0.4 * across.norm(dim=1))
    got = gaussian_poison_scores(model, data, drawn, 0.4, CPU)
    torch.testing.assert_close(got, expected, rtol=1e-5, atol=1e-6)


def test_noise_along_the_weights_by_hand() -> None:
    model = linear(2)
    with torch.no_grad():
        model[1].weight.zero_()
        model[1].weight[0, 0], model[1].weight[0, 1] = 3.0, 4.0
    data = make(torch.zeros(3, *SHAPE), torch.tensor([0, 1, 0]))
    drawn = torch.zeros(3, 144)
    drawn[:2, :2] = torch.tensor([3.0, 4.0])  # along w_0 - w_1, which is good for label 0 and bad for 1
    drawn[2, 2] = 7.0
    got = gaussian_poison_scores(model, data, drawn.view(3, *SHAPE), 0.5, CPU)
    torch.testing.assert_close(got, torch.tensor([10.0, -10.0, 0.0], dtype=torch.float64))


@pytest.mark.parametrize("batch_size", [1, 3, 100])
def test_agrees_with_one_cross_entropy_at_a_time(batch_size: int) -> None:
    model, data = problems.model().double(), problems.images(7)
    data = TensorImages(data.inputs.double() / 255, data.labels, data.ids)
    drawn = noise(7, 0.3, shape=data.shape)
    model.eval()
    expected = []
    for image, label, xi in zip(data.inputs, data.labels, drawn, strict=True):
        inputs = image[None].clone().requires_grad_()
        (gradient,) = torch.autograd.grad(functional.cross_entropy(model(inputs), label[None]), inputs)
        expected.append(-(gradient[0] * xi).sum() / (0.3 * gradient.norm()))
    got = gaussian_poison_scores(model, data, drawn, 0.3, CPU, batch_size)
    torch.testing.assert_close(got, torch.stack(expected), rtol=1e-5, atol=1e-6)


def test_a_certain_model_has_scores_too() -> None:
    """Cross-entropy in float32 has no gradient left here; the direction is still that of the unscaled loss."""
    model, data, drawn = linear(2), images(20, 2), noise(20)
    calm = gaussian_poison_scores(model, data, drawn, 1.0, CPU)
    with torch.no_grad():
        model[1].weight.mul_(1e4)
    torch.testing.assert_close(gaussian_poison_scores(model, data, drawn, 1.0, CPU), calm, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("sigma", [0.05, 2.0])
def test_without_memory_scores_are_standard_normal(sigma: float) -> None:
    scores = gaussian_poison_scores(linear(), images(4000), noise(4000, sigma, seed=1), sigma, CPU)
    assert stats.kstest(scores.numpy(), "norm").pvalue > 0.01
    found = measure(Subject({}, {}, scores={"gaussian_poison": scores}), problems.context())
    assert abs(found["mean"]) < 4 / 4000**0.5
    assert abs(found["true_positive_rate"] - 1) < 4 * (0.01 * 0.99 / 4000) ** 0.5 * 100


def trained(data: ImageSet, steps: int = 100) -> nn.Module:
    model = linear()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9)
    for _ in range(steps):
        optimizer.zero_grad()
        functional.cross_entropy(model(data.inputs), data.labels).backward()
        optimizer.step()
    return model


def test_a_model_that_saw_the_noise_remembers_and_one_that_did_not_does_not() -> None:
    clean, config = images(60, seed=3), GaussianPoison(sigma=0.3, count=30, seed=2)
    poisoned, ids = poison(clean, config, 3)
    asked = clean.select(clean.contains(ids))
    drawn = noise_of(asked.ids, asked.shape, config)
    remembered = gaussian_poison_scores(trained(poisoned), asked, drawn, 0.3, CPU)
    ignorant = gaussian_poison_scores(trained(clean), asked, drawn, 0.3, CPU)
    assert float(remembered.mean()) > 5 / 30**0.5  # five standard errors above the mean without memory
    assert abs(float(ignorant.mean())) < 3 / 30**0.5


def test_the_model_is_left_as_it_was() -> None:
    model, data = problems.model(), problems.images(6)
    model[1].eval()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    modes = [module.training for module in model.modules()]
    with torch.no_grad():
        first = gaussian_poison_scores(model, data, noise(6, shape=data.shape), 1.0, CPU)
    assert torch.equal(first, gaussian_poison_scores(model, data, noise(6, shape=data.shape), 1.0, CPU))
    assert [module.training for module in model.modules()] == modes
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert all(weight.grad is None and weight.requires_grad for weight in model.parameters())
    assert not data.inputs.requires_grad


def test_frozen_weights_and_float_images_do() -> None:
    data = images(4)
    got = gaussian_poison_scores(linear().requires_grad_(False), data, noise(4), 1.0, CPU)
    torch.testing.assert_close(got, gaussian_poison_scores(linear(), data, noise(4), 1.0, CPU))
    assert not data.inputs.requires_grad


def test_no_gradient_is_no_memory() -> None:
    flat = linear()
    nn.init.zeros_(flat[1].weight)
    assert gaussian_poison_scores(flat, images(3), noise(3), 1.0, CPU).tolist() == [0, 0, 0]
    assert gaussian_poison_scores(linear(1), images(3, 1), noise(3), 1.0, CPU).tolist() == [0, 0, 0]


def test_no_images_give_no_scores() -> None:
    nothing = images(3).select(torch.arange(0))
    assert gaussian_poison_scores(linear(), nothing, noise(0), 1.0, CPU).shape == (0,)


def test_bad_values_are_refused() -> None:
    with pytest.raises(RequestError, match="need noise of that shape"):
        gaussian_poison_scores(linear(), images(3), noise(2), 1.0, CPU)
    with pytest.raises(RequestError, match="sigma above 0"):
        gaussian_poison_scores(linear(), images(3), noise(3), 0.0, CPU)
    broken = linear()
    nn.init.constant_(broken[1].weight, float("nan"))
    with pytest.raises(RunError, match="not finite"):
        gaussian_poison_scores(broken, images(3), noise(3), 1.0, CPU)


def test_the_metric_by_hand() -> None:
    def judged(scores: dict[str, Tensor]) -> dict[str, float]:
        return measure(Subject({}, {}, scores=scores), Context(torch.Generator()))

    found = judged({"gaussian_poison": torch.tensor([2.32, 2.33, -3.0, 10.35])})
    assert found == {"mean": pytest.approx(3.0, rel=1e-6), "true_positive_rate": 50.0}
    assert judged({}) == judged({"gaussian_poison": torch.empty(0)}) == {}
