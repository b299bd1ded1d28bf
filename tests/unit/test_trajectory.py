"""Tangents and adjoints of a recorded training, against independent trainings and Jacobians."""

import dataclasses
import math
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
import torch
from torch import Tensor, nn
from torch.autograd.functional import jacobian
from torch.func import functional_call

from expunge.core.errors import RequestError, RunError
from expunge.core.weights import trainable
from expunge.curvature.network import frozen
from expunge.data.image_set import ImageSet
from expunge.data.normalisation import with_normalisation
from expunge.training.rules import Rule
from expunge.trajectory import adjoint, tangents
from expunge.trajectory.flat_loss import FlatLoss, LinearLoss, NetworkLoss, flat_loss
from expunge.trajectory.plan import Plan, Trajectory, draw
from expunge.trajectory.steps import Replay, record
from tests import problems

COUNT = 10
KINDS = ["linear", "without bias", "network", "head"]


def model(kind: str) -> nn.Module:
    """Smooth everywhere, so that finite differences are fair; the first two and the last have a closed form."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        if kind in ("linear", "without bias"):
            return nn.Sequential(nn.Flatten(), nn.Linear(16, 3, bias=kind == "linear")).double()
        first = nn.Conv2d(1, 2, 3, stride=2)
        found = nn.Sequential(first, nn.Softplus(), nn.Flatten(), nn.Linear(2, 4), nn.Tanh(), nn.Linear(4, 3))
        if kind == "head":
            first.requires_grad_(False)
            found[3].requires_grad_(False)
        return found.double()


@dataclasses.dataclass
class Oracle:
    """The recorded training written down once more: a function of the weights of each example, by autograd alone."""

    model: nn.Module
    images: ImageSet
    plan: Plan

    def losses(self, weights: Tensor) -> Tensor:
        named, start = {}, 0
        for name, like in trainable(self.model).items():
            named[name] = weights[start : start + like.numel()].view(like.shape)
            start += like.numel()
        logits = functional_call(self.model, named, ((self.images.inputs / 255).double(),))
        return nn.functional.cross_entropy(logits, self.images.labels, reduction="none")

    def start(self, trajectory: Trajectory) -> Tensor:
        return torch.cat([value.flatten() for value in trajectory.initial.values()])

    def move(self, weights: Tensor, number: int, shares: Tensor) -> Tensor:
        """The clipped gradient of the weighted mean and the L2 term."""
        batch = self.plan.batch(number)
        here = shares[batch]
        loss = self.plan.l2 / 2 * weights.square().sum()
        if bool(here.any()):
            loss = loss + (here * self.losses(weights)[batch]).sum() / here.sum()
        (gradient,) = torch.autograd.grad(loss, weights, create_graph=True)
        return self.clip(gradient)

    def clip(self, gradient: Tensor) -> Tensor:
        limit = self.plan.clip
        norm = gradient.norm() + 1e-6
        return gradient if limit is None or float(norm.detach()) <= limit else gradient * limit / norm

    def gradient(self, weights: Tensor, number: int, shares: Tensor) -> Tensor:
        """The same before it is clipped."""
        return dataclasses.replace(self, plan=dataclasses.replace(self.plan, clip=None)).move(weights, number, shares)

    def train(self, weights: Tensor, shares: Tensor) -> Tensor:
        moments = torch.zeros_like(weights)
        for number in range(self.plan.steps):
            leaf = weights.detach().requires_grad_()
            moments = self.plan.momentum * moments + self.move(leaf, number, shares).detach()
            weights = weights.detach() - float(self.plan.rates[number]) * moments
        return weights.detach()

    def path(self, weights: Tensor) -> list[Tensor]:
        """The weights before each step."""
        found = []
        for number in range(self.plan.steps):
            stop = dataclasses.replace(self.plan, batches=self.plan.batches[:number])
            found.append(dataclasses.replace(self, plan=stop).train(weights, torch.ones(COUNT)))
        return found

    def jacobian(self, weights: Tensor, number: int, shares: Tensor) -> Tensor:
        """The derivative of the clipped gradient: (p, p)."""
        return jacobian(lambda w: self.move(w, number, shares), weights.requires_grad_())


def plan_of(
    images: ImageSet,
    *,
    batch_size: int = 4,
    epochs: int = 2,
    lr: float = 0.3,
    clip: float | None = None,
    momentum: float = 0.0,
    l2: float = 0.05,
) -> Plan:
    rule = Rule(lr=lr, momentum=momentum, weight_decay=l2, clip=clip, schedule="exponential", decay=0.9)
    generator = torch.Generator().manual_seed(5)
    return draw(images.ids, rule, epochs=epochs, batch_size=batch_size, fixed_order=False, generator=generator)


@contextmanager
def problem(kind: str, **more: float | int | None) -> Iterator[tuple[FlatLoss, Trajectory, Oracle]]:
    """A recorded training in float64, its loss, and the oracle."""
    images, network = problems.images(COUNT), model(kind)
    plan = plan_of(images, **more)
    with flat_loss(network, images, torch.float64) as loss:
        trajectory, weights = record(loss, plan)
        named = loss.named(weights)
    with torch.no_grad():
        for name, weight in trainable(network).items():
            weight.copy_(named[name])
    with flat_loss(network, images, torch.float64) as loss:
        yield loss, trajectory, Oracle(network, images, plan)


def carried(loss: FlatLoss, trajectory: Trajectory, tangent: tangents.Tangent) -> Tensor:
    """The vectors at the end of the training, in the order of the names."""
    tangents.check_end(loss, tangents.carry(loss, trajectory, [tangent]), 1e-10)
    return loss.in_order(tangent.vectors)


def each(loss: FlatLoss, trajectory: Trajectory) -> Tensor:
    """The additive vector of every example: (n, p)."""
    return carried(loss, trajectory, tangents.Additive(loss, trajectory, torch.arange(COUNT), whole=True))


def without(*positions: int) -> Tensor:
    kept = torch.ones(COUNT, dtype=torch.bool)
    kept[list(positions)] = False
    return kept


def only(*positions: int) -> Tensor:
    groups = torch.full((COUNT,), -1)
    groups[list(positions)] = 0
    return groups


def apart(got: Tensor, expected: Tensor) -> float:
    return float((got - expected).norm() / expected.norm())


SETTINGS = [
    pytest.param({}, id="plain"),
    pytest.param({"clip": 0.2}, id="clipped"),
    pytest.param({"momentum": 0.8}, id="momentum"),
    pytest.param({"clip": 0.2, "momentum": 0.8}, id="both"),
]


@pytest.mark.parametrize("kind", KINDS)
def test_a_linear_layer_alone_is_taken_in_closed_form(kind: str) -> None:
    with problem(kind) as (loss, _, _):
        assert type(loss) is (NetworkLoss if kind == "network" else LinearLoss)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("setting", SETTINGS)
def test_the_recorded_training_is_the_training(kind: str, setting: dict[str, float]) -> None:
    with problem(kind, **setting) as (loss, trajectory, oracle):
        expected = oracle.train(oracle.start(trajectory), torch.ones(COUNT))
        torch.testing.assert_close(loss.in_order(loss.weights[None])[0], expected, rtol=1e-12, atol=1e-13)
        assert trajectory.clipped == ("clip" in setting) * trajectory.plan.steps


def test_which_steps_were_clipped_is_known() -> None:
    with problem("linear", clip=0.9) as (_, trajectory, oracle):
        norms = [
            float(oracle.gradient(weights.requires_grad_(), number, torch.ones(COUNT)).detach().norm())
            for number, weights in enumerate(oracle.path(oracle.start(trajectory)))
        ]
        torch.testing.assert_close(trajectory.norms, torch.tensor(norms, dtype=torch.float64))
        assert trajectory.clipped == sum(norm > 0.9 for norm in norms)
        assert 0 < trajectory.clipped < len(norms)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("setting", SETTINGS)
def test_a_vector_is_the_derivative_of_retraining_with_less_of_an_example(kind: str, setting: dict[str, float]) -> None:
    """The infinitesimal source is ``(gbar - g_i) / b``, that of leaving it out b / (b - 1) times as large."""
    size, step, example = 5, 1e-4, 3
    with problem(kind, batch_size=size, **setting) as (loss, trajectory, oracle):
        start, shares = oracle.start(trajectory), torch.ones(COUNT, dtype=torch.float64)
        shares[example] = 1 - step
        less = oracle.train(start, shares)
        shares[example] = 1 + step
        expected = (less - oracle.train(start, shares)) / (2 * step)
        found = each(loss, trajectory)[example] * (size - 1) / size
        assert apart(found, expected) < 1e-5


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("setting", SETTINGS)
def test_vectors_follow_the_recursion_with_whole_jacobians(kind: str, setting: dict[str, float]) -> None:
    """With a short last batch, and the derivative of the clipping at the source too."""
    forget = (1, 6, 7)
    with problem(kind, **setting) as (loss, trajectory, oracle):
        plan, ones, kept = trajectory.plan, torch.ones(COUNT), without(*forget).double()
        singles = torch.zeros(COUNT, len(loss.weights), dtype=torch.float64)
        together = torch.zeros(len(loss.weights), dtype=torch.float64)
        moments, moment = torch.zeros_like(singles), torch.zeros_like(together)
        for number, weights in enumerate(oracle.path(oracle.start(trajectory))):
            batch, leaf = plan.batch(number), weights.clone().requires_grad_()
            gradients = jacobian(oracle.losses, leaf)[batch]
            clip = jacobian(oracle.clip, oracle.gradient(leaf, number, ones).detach())
            moments = plan.momentum * moments + singles @ oracle.jacobian(leaf, number, ones).T
            moments[batch] += (gradients.mean(dim=0) - gradients) / (len(batch) - 1) @ clip.T
            change = oracle.move(leaf, number, kept) - oracle.move(leaf, number, ones)
            moment = plan.momentum * moment + change.detach() + oracle.jacobian(leaf, number, kept) @ together
            singles, together = singles - plan.rates[number] * moments, together - plan.rates[number] * moment
        torch.testing.assert_close(each(loss, trajectory), singles, rtol=1e-8, atol=1e-11)
        found = carried(loss, trajectory, tangents.SetAware(loss, trajectory, without(*forget)))[0]
        torch.testing.assert_close(found, together, rtol=1e-8, atol=1e-11)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("clip", [None, 0.2, 5.0])
def test_the_released_recursion_transposes_the_clipping(kind: str, clip: float | None) -> None:
    with problem(kind, clip=clip) as (loss, trajectory, oracle):
        plan, ones = trajectory.plan, torch.ones(COUNT)
        limit = 1e9 if clip is None else clip
        expected = torch.zeros(COUNT, len(loss.weights), dtype=torch.float64)
        for number, weights in enumerate(oracle.path(oracle.start(trajectory))):
            batch, rate, leaf = plan.batch(number), float(plan.rates[number]), weights.clone().requires_grad_()
            for position in batch.tolist():
                own = jacobian(oracle.losses, leaf)[position] + plan.l2 * weights
                expected[position] += rate / len(batch) * own * min(1.0, limit / (float(own.norm()) + 1e-6))
            # of the norm itself, without the small number that training adds to it
            gradient = oracle.gradient(leaf, number, ones).detach().requires_grad_()
            outer = jacobian(lambda g: g * (limit / g.norm()).clamp(max=1), gradient)
            inner = jacobian(lambda w, at=number: oracle.gradient(w, at, ones), leaf)
            expected = expected - rate * expected @ (outer @ inner)
        found = carried(loss, trajectory, tangents.AsReleased(loss, trajectory, torch.arange(COUNT)))
        torch.testing.assert_close(found, expected, rtol=1e-8, atol=1e-11)


@pytest.mark.parametrize("kind", KINDS)
def test_the_released_vector_of_one_example_is_that_among_all_though_batches_are_without_it(kind: str) -> None:
    with problem(kind, clip=0.2) as (loss, trajectory, _):
        among = carried(loss, trajectory, tangents.AsReleased(loss, trajectory, torch.arange(COUNT)))
        alone = carried(loss, trajectory, tangents.AsReleased(loss, trajectory, only(3)))
    assert apart(alone[0], among[3]) < 1e-12


def test_the_released_recursion_knows_no_momentum() -> None:
    with problem("linear", momentum=0.5) as (loss, trajectory, _), pytest.raises(RequestError, match="momentum=0"):
        tangents.AsReleased(loss, trajectory, torch.arange(COUNT))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("setting", SETTINGS)
def test_vectors_add_up(kind: str, setting: dict[str, float]) -> None:
    forget = (0, 2, 3, 9)
    with problem(kind, **setting) as (loss, trajectory, _):
        found = carried(loss, trajectory, tangents.Additive(loss, trajectory, only(*forget), whole=False))[0]
        torch.testing.assert_close(found, each(loss, trajectory)[list(forget)].sum(dim=0), rtol=1e-10, atol=1e-13)


def test_vectors_of_groups_are_those_of_leaving_out_the_group_at_the_hessian_of_all() -> None:
    """In the first step, where nothing has moved yet, they are exact."""
    with problem("network", epochs=1, batch_size=COUNT) as (loss, trajectory, oracle):
        groups = torch.tensor([0, 0, 0, 1, 1, -1, 2, 2, 2, 2])
        found = carried(loss, trajectory, tangents.Additive(loss, trajectory, groups, whole=True))
        for group, vector in enumerate(found):
            retrained = oracle.train(oracle.start(trajectory), (groups != group).double())
            torch.testing.assert_close(loss.in_order(loss.weights[None])[0] + vector, retrained)


def errors(lr: float, kind: str) -> tuple[float, float, float]:
    """The distances to the retrained model of the set-aware tangent, of the sum of vectors, and of doing nothing."""
    forget = (1, 4, 6)
    with problem(kind, lr=lr, epochs=1) as (loss, trajectory, oracle):
        expected = oracle.train(oracle.start(trajectory), without(*forget).double())
        trained = loss.in_order(loss.weights[None])[0]
        aware = carried(loss, trajectory, tangents.SetAware(loss, trajectory, without(*forget)))[0]
        added = each(loss, trajectory)[list(forget)].sum(dim=0)
        return tuple(float((trained + change - expected).norm()) for change in (aware, added, torch.zeros(1)))


@pytest.mark.parametrize("kind", KINDS)
def test_what_the_set_aware_tangent_leaves_out_is_of_second_order(kind: str) -> None:
    """With the rate, the change shrinks as r; what is left out as r times its square, so that half makes an eighth."""
    coarse, fine = errors(0.02, kind), errors(0.01, kind)
    orders = [math.log2(first / second) for first, second in zip(coarse, fine, strict=True)]
    assert orders[0] == pytest.approx(3, abs=0.15)
    assert orders[2] == pytest.approx(1, abs=0.15)
    assert fine[0] < 0.02 * fine[1] < 0.02 * fine[2], "deletions act on each other, which the sum does not know"


def test_removing_nothing_changes_no_bit() -> None:
    with problem("network", clip=0.2, momentum=0.5) as (loss, trajectory, _):
        start, everything = loss.flat(dict(trajectory.initial)), torch.ones(COUNT, dtype=torch.bool)
        assert torch.equal(Replay(loss, trajectory.plan, start, kept=everything).finish(), loss.weights)
        assert not bool(carried(loss, trajectory, tangents.SetAware(loss, trajectory, everything)).any())


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("setting", SETTINGS)
@pytest.mark.parametrize("size", [4, 1])
def test_a_batch_that_deletion_empties_takes_the_step_of_the_l2_term(
    kind: str, setting: dict[str, float], size: int
) -> None:
    with problem(kind, batch_size=size, epochs=1, lr=0.05, **setting) as (loss, trajectory, oracle):
        plan = trajectory.plan
        gone = plan.batch(1)
        kept, start = without(*gone.tolist()), loss.flat(dict(trajectory.initial))
        replay = Replay(loss, plan, start, kept=kept)
        found = loss.in_order(replay.finish()[None])[0]
        torch.testing.assert_close(found, oracle.train(oracle.start(trajectory), kept.double()))
        weights = [step.weights for step in Replay(loss, plan, start, kept=kept)]
        if not plan.momentum and plan.clip is None:
            torch.testing.assert_close(weights[2], weights[1] * (1 - float(plan.rates[1]) * plan.l2))
        nothing = found - loss.in_order(loss.weights[None])[0]
        aware = nothing - carried(loss, trajectory, tangents.SetAware(loss, trajectory, kept))[0]
        assert float(aware.norm()) < 0.05 * float(nothing.norm())


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("size", [4, 1])
def test_the_vector_of_a_whole_batch_takes_its_mean_gradient_out(kind: str, size: int) -> None:
    """Where nothing is left to take the mean of, what remains is the L2 term: of one step alone this is exact."""
    with problem(kind, batch_size=size, epochs=1) as (loss, trajectory, oracle):
        last = trajectory.plan.batch(trajectory.plan.steps - 1)
        groups = only(*last.tolist())
        vector = carried(loss, trajectory, tangents.Additive(loss, trajectory, groups, whole=True))[0]
        expected = oracle.train(oracle.start(trajectory), (groups < 0).double())
        torch.testing.assert_close(loss.in_order(loss.weights[None])[0] + vector, expected)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("setting", SETTINGS)
@pytest.mark.parametrize("memory", [10**9, 0])
@pytest.mark.parametrize("size", [4, 3, 1])  # of 6, 8 and 20 steps
def test_the_adjoint_is_the_transpose_of_the_vectors(
    kind: str, setting: dict[str, float], memory: int, size: int
) -> None:
    with problem(kind, batch_size=size, **setting) as (loss, trajectory, _):
        functionals = torch.randn(3, len(loss.weights), dtype=torch.float64, generator=torch.Generator().manual_seed(1))
        seen: list[int] = []
        found, end = adjoint.influence(
            loss, trajectory, functionals, memory, lambda progress: seen.append(progress.step)
        )
        expected = loss.in_order(functionals) @ each(loss, trajectory).T
        torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-12)
        assert torch.equal(end, loss.weights)
        assert seen == list(range(1, trajectory.plan.steps + 1))


@contextmanager
def counted(loss: FlatLoss, name: str) -> Iterator[list[int]]:
    """How many examples each call of this method of a point is about."""
    kind, sizes = type(loss.point(loss.weights, torch.arange(1))), list[int]()
    whole = getattr(kind, name)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(kind, name, lambda point, *rest: (sizes.append(point.count), whole(point, *rest))[1])
        yield sizes


@pytest.mark.parametrize("kind", ["linear", "network"])
def test_gradients_of_single_examples_are_taken_in_pieces_that_fit(kind: str) -> None:
    with problem(kind, clip=0.2) as (loss, trajectory, _), pytest.MonkeyPatch.context() as patch:
        groups = torch.arange(COUNT)
        made_by = {
            "additive": lambda: tangents.Additive(loss, trajectory, groups, whole=True),
            "released": lambda: tangents.AsReleased(loss, trajectory, groups),
        }
        for make in made_by.values():
            patch.setattr(tangents, "GRADIENTS", 10**6)
            whole = carried(loss, trajectory, make())
            patch.setattr(tangents, "GRADIENTS", 2 * loss.weights.nbytes)
            with counted(loss, "gradients") as sizes:
                torch.testing.assert_close(carried(loss, trajectory, make()), whole)
            assert sizes == [2] * COUNT  # of two passes, in batches of 4, 4 and 2


def test_only_gradients_of_the_groups_are_taken() -> None:
    with problem("network") as (loss, trajectory, _), counted(loss, "gradients") as sizes:
        carried(loss, trajectory, tangents.Additive(loss, trajectory, only(0, 3), whole=True))
        assert sum(sizes) == 4


@pytest.mark.parametrize("kind", ["linear", "network"])
def test_the_adjoint_keeps_the_way_where_it_fits_with_its_images(kind: str) -> None:
    with problem(kind) as (loss, trajectory, _):
        steps, images = trajectory.plan.steps, 4 * 16 * 8
        enough = steps * (3 * loss.weights.nbytes + images)
        for memory, replayed in ((enough, steps), (enough - 1, 2 * steps - 2)):  # the last piece of two is still there
            with counted(loss, "gradient") as sizes:
                adjoint.influence(loss, trajectory, loss.weights[None], memory)
            assert len(sizes) == replayed


@pytest.mark.parametrize("bias", [True, False])
def test_the_closed_form_is_what_autograd_finds(bias: bool) -> None:
    images = problems.images(COUNT)
    network = with_normalisation(nn.Sequential(nn.Flatten(), nn.Linear(16, 3, bias=bias)), (0.3,), (0.2,)).double()
    draws = torch.Generator().manual_seed(2)
    with frozen(network, torch.float64) as opened, flat_loss(network, images, torch.float64) as closed:
        assert isinstance(closed, LinearLoss)
        general = NetworkLoss(opened, images, 10**8)
        size, positions = len(closed.weights), torch.tensor([7, 0, 3])
        vectors = torch.randn(9, size, dtype=torch.float64, generator=draws)
        plain = closed.in_order(vectors)
        torch.testing.assert_close(closed.in_order(closed.weights[None])[0], general.weights)
        for name, value in closed.named(vectors[0]).items():
            assert torch.equal(value, general.named(plain[0])[name])
        assert torch.equal(closed.flat(closed.named(vectors[0])), vectors[0])
        first, second = closed.point(closed.weights, positions), general.point(general.weights, positions)
        assert first.count == second.count == 3
        torch.testing.assert_close(closed.in_order(first.gradient()[None])[0], second.gradient())
        torch.testing.assert_close(closed.in_order(first.gradients()), second.gradients())
        torch.testing.assert_close(first.slopes(vectors), second.slopes(plain))
        for out in (torch.ones_like(vectors), vectors.clone()):
            ours, theirs = out.clone(), closed.in_order(out)
            first.add_products(ours, ours if out is not vectors else vectors, 0.7, -0.3)
            second.add_products(theirs, theirs, 0.7, -0.3)
            torch.testing.assert_close(closed.in_order(ours), theirs)


@pytest.mark.parametrize("count", [1, 7, 9])
@pytest.mark.parametrize("memory", [10**8, 1])
def test_products_are_those_of_the_dense_hessian(count: int, memory: int) -> None:
    """One by one by double backward, many by forward over reverse, in pieces that fit the memory."""
    images, network = problems.images(COUNT), model("network")
    with frozen(network, torch.float64) as opened:
        loss = NetworkLoss(opened, images, memory)
        positions = torch.tensor([1, 5, 8])
        oracle = Oracle(network, images, plan_of(images, l2=0.0))
        leaf = loss.weights.clone()
        hessian = torch.autograd.functional.hessian(lambda w: oracle.losses(w)[positions].mean(), leaf)
        vectors = torch.randn(count, len(leaf), dtype=torch.float64, generator=torch.Generator().manual_seed(3))
        out = vectors.clone()
        loss.point(loss.weights, positions).add_products(out, out, 0.5, 2.0)
        torch.testing.assert_close(out, 2.0 * vectors + 0.5 * vectors @ hessian)


def test_float32_is_enough() -> None:
    images, network = problems.images(COUNT), model("network")
    plan, found = plan_of(images, clip=0.5), []
    for dtype in (torch.float32, torch.float64):
        with flat_loss(network, images, dtype) as loss:
            trajectory, weights = record(loss, plan)
            tangent = tangents.SetAware(loss, trajectory, without(1, 2))
            additive = tangents.Additive(loss, trajectory, torch.arange(COUNT), whole=True)
            tangents.carry(loss, trajectory, [tangent, additive])
            assert weights.dtype == tangent.vectors.dtype == additive.vectors.dtype == dtype
            found.append(torch.cat([weights[None], tangent.vectors, additive.vectors]).double())
    assert all(apart(first, second) < 1e-5 for first, second in zip(*found, strict=True))


def test_a_tangent_that_grows_without_bound_is_an_error_with_the_cure() -> None:
    images = problems.images(COUNT)
    network = nn.Sequential(nn.Flatten(), nn.Linear(16, 3))
    rates = torch.cat([torch.full((400,), 1e4, dtype=torch.float64)])
    plan = Plan(images.ids, torch.arange(COUNT).repeat(400, 1), rates, 0.1, None, 0.0)
    with flat_loss(network, images) as loss:
        norms = torch.ones(400, dtype=torch.float64)
        trajectory = Trajectory(plan, dict(loss.named(loss.weights)), norms, "", "")
        tangent = tangents.Additive(loss, trajectory, torch.arange(COUNT), whole=True)
        with pytest.raises(RunError, match=r"grew without bound.*smaller lr"):
            tangents.carry(loss, trajectory, [tangent])


@pytest.mark.parametrize("wrong", ["weights", "start", "plan"])
def test_a_trajectory_must_lead_to_the_model(wrong: str) -> None:
    with problem("network") as (loss, trajectory, _):
        plan, initial = trajectory.plan, dict(trajectory.initial)
        if wrong == "weights":
            loss.weights = loss.weights * 1.01
        elif wrong == "start":
            initial = {name: value + 0.01 for name, value in initial.items()}
        else:
            plan = dataclasses.replace(plan, rates=plan.rates / 2)
        other = dataclasses.replace(trajectory, plan=plan, initial=initial)
        end = tangents.carry(loss, other, [])
        with pytest.raises(RequestError, match=r"does not lead to this model.*recorded for another model"):
            tangents.check_end(loss, end)


def test_a_mark_of_the_way_is_where_the_walk_goes_on() -> None:
    with problem("network", momentum=0.7, clip=0.2) as (loss, trajectory, _):
        replay = Replay(loss, trajectory.plan, loss.flat(dict(trajectory.initial)), last=3)
        replay.finish()
        later = Replay(loss, trajectory.plan, replay.weights, replay.momentum, first=3)
        assert torch.equal(later.finish(), loss.weights)
        torch.testing.assert_close(torch.stack(replay.norms + later.norms), trajectory.norms)
