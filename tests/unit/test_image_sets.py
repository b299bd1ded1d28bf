"""What is asked of a set of images is asked of its interface: a set that never holds all pixels gives the same."""

import dataclasses
from collections.abc import Callable, Iterator
from dataclasses import replace

import pytest
import torch
from torch import Tensor

import expunge
from expunge.core.errors import RequestError
from expunge.data.augment import Augmentation
from expunge.data.image_set import Batch, Change, ImageSet, TensorImages, bounds
from expunge.data.poisoning import poison, triggered
from expunge.data.poisons.blend import BlendTrigger
from expunge.data.poisons.gaussian import GaussianPoison
from expunge.data.poisons.patch import PatchTrigger
from expunge.data.unlearning_data import UnlearningData
from expunge.evaluation.predictions import predict
from expunge.methods.adversarial import AdversarialConfig
from expunge.methods.bad_teacher import BadTeacherConfig
from expunge.methods.boundary_expanding import BoundaryExpandingConfig
from expunge.methods.boundary_shrink import BoundaryShrinkConfig
from expunge.methods.finetune import FinetuneConfig
from expunge.methods.hessian_free import HessianFreeConfig
from expunge.methods.random_label import RandomLabelConfig
from expunge.methods.scrub import ScrubConfig
from expunge.training import fit as training
from expunge.training.rules import Rule
from expunge.trajectory.plan import fingerprint
from expunge.trajectory.record import recorded
from expunge.unlearning.unlearn import Unlearning
from expunge.unlearning.update_masks import UpdateMask
from tests import problems

SHAPE, CLASSES, AT_ONCE = (1, 4, 4), 3, 15


def pixels(key: int) -> Tensor:
    """The image of a key, computed from it alone."""
    drawn = torch.randint(0, 120, SHAPE, dtype=torch.uint8, generator=torch.Generator().manual_seed(key))
    drawn[0, key % CLASSES] += 120
    return drawn


@dataclasses.dataclass(frozen=True)
class Computed:
    """Images that are computed from their keys when a batch needs them, never more than AT_ONCE of them."""

    keys: Tensor
    labels: Tensor
    ids: Tensor
    augmentation: Augmentation | None = None
    change: Callable[[Tensor, int, int], Tensor] = lambda image, key, given: image
    as_float: bool = False

    def __len__(self) -> int:
        return len(self.keys)

    @property
    def shape(self) -> tuple[int, ...]:
        return SHAPE

    @property
    def dtype(self) -> torch.dtype:
        return torch.float32 if self.as_float else torch.uint8

    @property
    def device(self) -> torch.device:
        return self.keys.device

    def to(self, device: torch.device | str) -> "Computed":
        assert torch.device(device).type == "cpu"
        return self

    def steps(self, size: int) -> int:
        return len(bounds(len(self), size, join=True))

    def stored(self, positions: Tensor) -> Tensor:
        assert len(positions) <= AT_ONCE, "a batch at most is held"
        if not len(positions):
            return torch.empty(0, *SHAPE, dtype=self.dtype)
        images = []
        for key, given in zip(self.keys[positions].tolist(), self.ids[positions].tolist(), strict=True):
            image = pixels(key)
            images.append(self.change(image / 255 if self.as_float else image, key, given))
        return torch.stack(images)

    def batches(self, size: int, generator: torch.Generator | None = None) -> Iterator[Batch]:
        order = torch.arange(len(self)) if generator is None else torch.randperm(len(self), generator=generator)
        for start, stop in bounds(len(self), size, join=generator is not None):
            inputs = self.stored(order[start:stop])
            if generator is not None and self.augmentation is not None:
                inputs = self.augmentation(inputs, generator)
            inputs = inputs if self.as_float else inputs / 255
            yield Batch(inputs, self.labels[order[start:stop]], self.ids[order[start:stop]])

    def gather(self, ids: Tensor) -> Batch:
        places = {given: place for place, given in enumerate(self.ids.tolist())}
        found = self.select(torch.tensor([places[given] for given in ids.tolist()], dtype=torch.int64))
        inputs = found.stored(torch.arange(len(found)))
        return Batch(inputs if self.as_float else inputs / 255, found.labels, found.ids)

    def select(self, positions: Tensor) -> "Computed":
        keys, labels, ids = (each[positions] for each in (self.keys, self.labels, self.ids))
        return dataclasses.replace(self, keys=keys, labels=labels, ids=ids)

    def contains(self, ids: Tensor) -> Tensor:
        return torch.isin(self.ids, ids)

    def with_labels(self, labels: Tensor) -> "Computed":
        return dataclasses.replace(self, labels=labels)

    def with_ids(self, ids: Tensor) -> "Computed":
        return dataclasses.replace(self, ids=ids)

    def with_augmentation(self, augmentation: Augmentation | None) -> "Computed":
        return dataclasses.replace(self, augmentation=augmentation)

    def mapped(self, change: Change, positions: Tensor | None = None) -> "Computed":
        chosen = set((self.keys if positions is None else self.keys[positions]).tolist())
        before = self.change

        def changed(image: Tensor, key: int, given: int) -> Tensor:
            image = before(image, key, given)
            return change(image[None], torch.tensor([given]))[0] if key in chosen else image

        return dataclasses.replace(self, change=changed)

    def merged(self, other: ImageSet) -> "Computed":
        both = self.joined(other)
        return both.select(both.ids.argsort())

    def followed_by(self, other: ImageSet) -> "Computed":
        both = self.joined(other)
        return dataclasses.replace(both, ids=torch.arange(len(both)))

    def joined(self, other: ImageSet) -> "Computed":
        assert isinstance(other, Computed)
        names = ("keys", "labels", "ids")
        parts = {name: torch.cat([getattr(self, name), getattr(other, name)]) for name in names}
        return dataclasses.replace(self, **parts)

    def fingerprint(self) -> str:
        return in_memory(self).fingerprint()


def in_memory(images: Computed) -> TensorImages:
    """The same set in memory."""
    parts = torch.arange(len(images)).split(AT_ONCE)
    inputs = torch.cat([images.stored(part) for part in parts])
    return TensorImages(inputs, images.labels, images.ids, images.augmentation)


def computed(count: int, first: int, augmentation: Augmentation | None = None, as_float: bool = False) -> Computed:
    keys = torch.arange(first, first + count)
    return Computed(keys, keys % CLASSES, 3 * keys + 1, augmentation, as_float=as_float)


def streamed(**more: object) -> UnlearningData:
    sets = (computed(count, first, **more) for count, first in ((10, 0), (29, 20), (12, 60)))
    return UnlearningData(*sets, CLASSES)


def held(data: UnlearningData) -> UnlearningData:
    sets = {name: in_memory(getattr(data, name)) for name in ("forget", "retain", "validation")}
    return dataclasses.replace(data, **sets)


RULE = Rule(lr=0.05)
SALUN = Unlearning(RandomLabelConfig(epochs=2, batch_size=7, rule=RULE), update_mask=UpdateMask(batch_size=7))
WAYS = {
    "finetune": FinetuneConfig(epochs=2, batch_size=7, rule=RULE),
    "random_label": RandomLabelConfig(epochs=2, batch_size=7, rule=RULE),
    "random_label_mixed": RandomLabelConfig(epochs=2, batch_size=7, order="mixed", rule=RULE),
    "bad_teacher": BadTeacherConfig(epochs=2, batch_size=7, rule=RULE),
    "scrub": ScrubConfig(epochs=2, maximise_epochs=1, batch_size=7, rule=RULE),
    "boundary_shrink": BoundaryShrinkConfig(epochs=2, batch_size=7, rule=RULE),
    "boundary_expanding": BoundaryExpandingConfig(epochs=2, batch_size=7, rule=RULE),
    "adversarial": AdversarialConfig(epochs=1, batch_size=6, pretrain_steps=3, rule=RULE),
    "salun": SALUN,
}


@pytest.mark.parametrize("more", [{}, {"augmentation": Augmentation(1)}, {"as_float": True}], ids=str)
@pytest.mark.parametrize("name", WAYS)
def test_methods_give_the_same_weights_whether_images_are_held_or_computed(name: str, more: dict[str, object]) -> None:
    data = streamed(**more)
    got = problems.unlearned(WAYS[name], on=data)
    assert problems.same(got, problems.unlearned(WAYS[name], on=held(data)))
    assert not problems.same(got, problems.model())


def test_recorded_trainings_take_images_that_are_computed() -> None:
    data = streamed()
    plan = training.Training(1, 8, Rule(lr=0.05, momentum=0.5), record=True)
    found = []
    for given in (data, held(data)):
        model = problems.model(batch_norm=False)
        trajectory = recorded(model, given.everything(), plan, problems.context())
        found.append(problems.unlearned(HessianFreeConfig(), model, given, trajectory=trajectory))
    assert problems.same(*found)


def test_predictions_are_the_same() -> None:
    images = computed(40, 5)
    asked = [predict(problems.model(), given, torch.device("cpu"), 9) for given in (images, in_memory(images))]
    assert torch.equal(asked[0].logits, asked[1].logits)
    assert torch.equal(asked[0].labels, asked[1].labels)


def test_the_python_interface_takes_any_set() -> None:
    forget, retain = computed(10, 0), computed(15, 20)
    found = [
        expunge.unlearn(problems.model(), forget=f, retain=r, method="finetune", epochs=1, batch_size=6).model
        for f, r in ((forget, retain), (in_memory(forget), in_memory(retain)))
    ]
    assert problems.same(*found)


@pytest.mark.parametrize("trigger", [PatchTrigger(size=2, margin=1), BlendTrigger(), GaussianPoison()])
def test_images_are_poisoned_when_they_are_computed(trigger: PatchTrigger | BlendTrigger | GaussianPoison) -> None:
    config, images = replace(trigger, count=11, seed=4), computed(30, 2)
    (got, ids), (wanted, wanted_ids) = (poison(given, config, CLASSES) for given in (images, in_memory(images)))
    assert torch.equal(ids, wanted_ids)
    assert got.fingerprint() == wanted.fingerprint() != images.fingerprint()
    asked = [triggered(given, config) for given in (images, in_memory(images))]
    assert [len(each) for each in asked] == [len(asked[0])] * 2
    if len(asked[0]):
        assert asked[0].fingerprint() == asked[1].fingerprint()


def test_a_set_in_memory_is_asked_by_id_and_joined() -> None:
    images = in_memory(computed(9, 3))
    batch = images.gather(torch.tensor([34, 10, 22]))
    assert torch.equal(batch.inputs, images.inputs[[8, 0, 4]] / 255)
    assert torch.equal(batch.labels, images.labels[[8, 0, 4]])
    assert batch.ids.tolist() == [34, 10, 22]
    assert not len(images.gather(torch.tensor([], dtype=torch.int64)).labels)
    for unknown in (11, 10000):
        with pytest.raises(RequestError, match=f"no example with the id {unknown}"):
            images.gather(torch.tensor([10, unknown]))
    with pytest.raises(RequestError, match="no example with the id 1"):
        images.select(torch.arange(0)).gather(torch.tensor([1]))
    odd = torch.arange(9) % 2 == 1
    first, second = images.select(odd), images.select(~odd)
    assert first.merged(second).fingerprint() == images.fingerprint()
    both = first.followed_by(second)
    assert torch.equal(both.inputs, torch.cat([first.inputs, second.inputs]))
    assert both.ids.tolist() == list(range(9))
    with pytest.raises(RequestError, match="ids repeat"):
        first.merged(images)
    for join in (images.merged, images.followed_by):
        with pytest.raises(RequestError, match="only be joined with"):
            join(computed(3, 50))


def test_images_out_of_order_have_the_fingerprint_of_those_in_order() -> None:
    images = in_memory(computed(9, 3))
    assert fingerprint(images.select(torch.arange(9).flip(0))) == fingerprint(images) == images.fingerprint()


def test_both_kinds_are_image_sets() -> None:
    assert isinstance(computed(3, 0), expunge.ImageSet)
    assert isinstance(in_memory(computed(3, 0)), expunge.ImageSet)
    assert not isinstance(torch.utils.data.TensorDataset(torch.zeros(2)), expunge.ImageSet)
