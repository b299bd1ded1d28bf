"""Triggers, poisoned training sets, and noise that can be drawn again."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from scipy import stats

from expunge.core import config as configuration
from expunge.core.config import parse
from expunge.core.errors import RequestError
from expunge.data.augment import Augmentation
from expunge.data.forgetting import forget_ids
from expunge.data.image_set import ImageSet, TensorImages
from expunge.data.poisoning import Poison, Trigger, poison, stamp, triggered
from expunge.data.poisons.blend import BlendTrigger
from expunge.data.poisons.gaussian import GaussianPoison, noise_of
from expunge.data.poisons.patch import PatchTrigger
from expunge.data.split_data import DataConfig
from expunge.evaluation.predictions import Predictions, Subject
from expunge.metrics.attack_success_rate import measure
from expunge.training.context import Context

TRIGGERS: list[Trigger] = [PatchTrigger(), BlendTrigger(), GaussianPoison()]


def images(count: int = 12, as_float: bool = False, shape: tuple[int, ...] = (3, 9, 8), classes: int = 3) -> ImageSet:
    generator = torch.Generator().manual_seed(count)
    pixels = torch.randint(1, 255, (count, *shape), dtype=torch.uint8, generator=generator)
    ids = torch.randperm(1000, generator=generator)[:count]
    return TensorImages(pixels / 255 if as_float else pixels, torch.arange(count) % classes, ids, Augmentation(1))


def same(first: ImageSet, second: ImageSet) -> bool:
    return all(torch.equal(getattr(first, name), getattr(second, name)) for name in ("inputs", "labels", "ids"))


# stamp


@pytest.mark.parametrize(
    ("place", "rows", "columns"),
    [
        ("bottom_right", range(5, 8), range(4, 7)),
        ("bottom_left", range(5, 8), range(1, 4)),
        ("top_left", range(1, 4), range(1, 4)),
        ("top_right", range(1, 4), range(4, 7)),
        ("centre", range(3, 6), range(2, 5)),
    ],
)
@pytest.mark.parametrize("as_float", [False, True])
def test_a_patch_pixel_by_pixel(place: str, rows: range, columns: range, as_float: bool) -> None:
    data = images(2, as_float)
    got = stamp(data, PatchTrigger(size=3, place=place, margin=1, value=0.7)).inputs  # type: ignore[arg-type]
    value = torch.tensor(0.7) if as_float else torch.tensor(178, dtype=torch.uint8)  # 0.7 * 255 = 178.5, to even
    for row in range(9):
        for column in range(8):
            inside = row in rows and column in columns
            expected = value.expand(2, 3) if inside else data.inputs[:, :, row, column]
            assert torch.equal(got[:, :, row, column], expected)


def test_a_patch_may_fill_the_image() -> None:
    assert not stamp(images(2), PatchTrigger(size=8, margin=0, value=0.0)).inputs[:, :, 1:].any()
    assert bool(
        (stamp(images(2, shape=(1, 4, 4)), PatchTrigger(size=4, place="centre", value=1.0)).inputs == 255).all()
    )


def test_a_blend_mixes_the_same_pattern_into_every_image() -> None:
    data = images(5, as_float=True)
    black = TensorImages(torch.zeros(1, 3, 9, 8), torch.zeros(1, dtype=torch.int64), torch.tensor([77]))
    pattern = stamp(black, replace(BlendTrigger(alpha=1.0), seed=4)).inputs
    assert 0 < float(pattern.min()) < 0.1
    assert 0.9 < float(pattern.max()) < 1
    expected = 0.75 * data.inputs + 0.25 * pattern
    torch.testing.assert_close(stamp(data, replace(BlendTrigger(alpha=0.25), seed=4)).inputs, expected)
    assert not torch.equal(stamp(black, replace(BlendTrigger(alpha=1.0), seed=5)).inputs, pattern)


def test_the_pattern_of_a_blend_is_uniform() -> None:
    black = TensorImages(torch.zeros(1, 3, 64, 64), torch.zeros(1, dtype=torch.int64), torch.tensor([0]))
    pattern = stamp(black, BlendTrigger(alpha=1.0)).inputs.flatten().numpy()
    assert stats.kstest(pattern, "uniform").pvalue > 0.01


@pytest.mark.parametrize("trigger", [BlendTrigger(alpha=0.3), GaussianPoison(sigma=0.2)])
def test_uint8_is_the_float_image_rounded(trigger: Trigger) -> None:
    data = images()
    exact = stamp(TensorImages(data.inputs / 255, data.labels, data.ids), replace(trigger, seed=1)).inputs
    assert torch.equal(stamp(data, replace(trigger, seed=1)).inputs, (exact * 255).round().to(torch.uint8))
    assert 0 <= float(exact.min()) <= float(exact.max()) <= 1


def test_gaussian_poison_adds_the_noise_and_clips() -> None:
    data = images(as_float=True)
    config = GaussianPoison(sigma=0.5, count=1, seed=3)
    expected = (data.inputs + noise_of(data.ids, data.shape, config)).clamp(0, 1)
    assert torch.equal(stamp(data, config).inputs, expected)
    assert bool((expected == 0).any())
    assert bool((expected == 1).any())


@pytest.mark.parametrize("trigger", TRIGGERS)
@pytest.mark.parametrize("dtype", [torch.uint8, torch.float16, torch.float32, torch.float64])
def test_stamp_is_pure_and_keeps_type_labels_ids_and_augmentation(trigger: Trigger, dtype: torch.dtype) -> None:
    data = images()
    if dtype.is_floating_point:
        data = TensorImages((data.inputs / 255).to(dtype), data.labels, data.ids, data.augmentation)
    before = data.inputs.clone()
    got = stamp(data, trigger)
    assert torch.equal(data.inputs, before)
    assert got.inputs.dtype == dtype
    assert not torch.equal(got.inputs, before)
    assert torch.equal(got.labels, data.labels)
    assert torch.equal(got.ids, data.ids)
    assert got.augmentation == data.augmentation
    assert same(got, stamp(data, trigger))


@pytest.mark.parametrize("trigger", TRIGGERS)
def test_nothing_can_be_stamped(trigger: Trigger) -> None:
    assert len(stamp(images(4).select(torch.arange(0)), trigger)) == 0


# noise


def test_noise_depends_on_id_and_seed_alone() -> None:
    config = GaussianPoison(sigma=0.1, count=1, seed=5)
    ids = torch.arange(700) * 3 - 20
    noise = noise_of(ids, (1, 5, 4), config)
    assert noise.dtype == torch.float32
    assert noise.shape == (700, 1, 5, 4)
    chosen = torch.tensor([600, 2, 255, 256, 257])
    assert torch.equal(noise_of(ids[chosen], (1, 5, 4), config), noise[chosen])
    assert len(torch.unique(noise)) > 0.99 * noise.numel()
    assert not torch.equal(noise_of(ids, (1, 5, 4), GaussianPoison(sigma=0.1, count=1, seed=6)), noise)
    doubled = noise_of(ids, (1, 5, 4), GaussianPoison(sigma=0.2, count=1, seed=5))
    torch.testing.assert_close(doubled, 2 * noise)


def test_noise_never_changes() -> None:
    """An audit may come years after the training: these numbers are SplitMix64 and the normal quantile, by hand."""
    mask = 2**64 - 1

    def mix(value: int) -> int:
        value = ((value ^ value >> 30) * 0xBF58476D1CE4E5B9) & mask
        value = ((value ^ value >> 27) * 0x94D049BB133111EB) & mask
        return value ^ value >> 31

    import hashlib

    golden = 0x9E3779B97F4A7C15
    key = int.from_bytes(hashlib.sha256(b"5/noise").digest()[:8], "little")
    state = mix((key + 42 * golden) & mask)
    uniform = [((mix((state + j * golden) & mask) >> 12) + 0.5) / 2**52 for j in (1, 2, 3)]
    got = noise_of(torch.tensor([42]), (3,), GaussianPoison(sigma=2.0, count=1, seed=5))
    np.testing.assert_allclose(got[0].numpy(), 2 * stats.norm.ppf(uniform), rtol=1e-6)
    # The published first outputs of SplitMix64 from state 1234567, which "mix" above must give too.
    assert [mix((1234567 + j * golden) & mask) for j in (1, 2)] == [6457827717110365317, 3203168211198807973]


def test_noise_is_standard_normal_and_independent() -> None:
    noise = noise_of(torch.arange(400), (3, 4, 4), GaussianPoison(sigma=3.0, count=1)).flatten(1) / 3
    assert stats.kstest(noise.flatten().numpy(), "norm").pvalue > 0.01
    pixels, examples = np.corrcoef(noise.T.numpy()), np.corrcoef(noise.numpy())
    for correlations, length in ((pixels, 400), (examples, 48)):
        z = np.arctanh(correlations[np.triu_indices_from(correlations, 1)]) * np.sqrt(length - 3)
        assert abs(z.mean()) < 4 / np.sqrt(len(z))
        assert z.std() == pytest.approx(1, abs=0.1)


# poison


def test_dirty_labels() -> None:
    data = images(90)
    before = data.inputs.clone()
    config = PatchTrigger(size=3, margin=1, share=0.5, target=1, seed=2)
    got, ids = poison(data, config, 3)
    chosen = data.contains(ids)
    assert len(ids) == int(chosen.sum()) == 45
    assert ids.tolist() == sorted(ids.tolist())
    assert set(data.labels[chosen].tolist()) == {0, 1, 2}  # those of the target class too
    assert torch.equal(got.inputs[chosen], stamp(data, config).inputs[chosen])
    assert torch.equal(got.inputs[~chosen], data.inputs[~chosen])
    assert torch.equal(got.labels, torch.where(chosen, 1, data.labels))
    assert torch.equal(got.ids, data.ids)
    assert got.augmentation == data.augmentation
    assert torch.equal(data.inputs, before)
    assert data.labels.tolist() == [0, 1, 2] * 30


def test_clean_labels() -> None:
    data = images(90)
    got, ids = poison(data, PatchTrigger(size=3, margin=1, count=20, target=1, clean_label=True), 3)
    chosen = data.contains(ids)
    assert len(ids) == 20
    assert data.labels[chosen].tolist() == [1] * 20
    assert torch.equal(got.labels, data.labels)
    changed = (got.inputs != data.inputs).flatten(1).any(dim=1)
    assert torch.equal(changed, chosen)


def test_gaussian_noise_leaves_labels() -> None:
    data = images(90, as_float=True)
    config = GaussianPoison(sigma=0.1, share=0.2, seed=1)
    got, ids = poison(data, config, 3)
    chosen = data.contains(ids)
    assert len(ids) == 18
    assert set(data.labels[chosen].tolist()) == {0, 1, 2}
    assert torch.equal(got.labels, data.labels)
    assert torch.equal(got.inputs[~chosen], data.inputs[~chosen])
    clean = data.select(chosen)
    noisy = (clean.inputs + noise_of(clean.ids, clean.shape, config)).clamp(0, 1)
    assert torch.equal(got.inputs[chosen], noisy)


def test_the_seed_draws_the_poisoned_examples_and_shares_round_down() -> None:
    data = images(50)
    drawn = {seed: poison(data, PatchTrigger(share=0.1 * 3, seed=seed), 3)[1].tolist() for seed in range(5)}
    assert {len(ids) for ids in drawn.values()} == {15}
    assert len({tuple(ids) for ids in drawn.values()}) == 5
    assert drawn[0] == poison(data, PatchTrigger(share=0.3), 3)[1].tolist()
    assert len(poison(data, PatchTrigger(share=0.39 / 2), 3)[1]) == 9
    assert 0.29 * 100 < 29  # the share of a hundred is 29 all the same
    assert len(poison(images(100), PatchTrigger(share=0.29), 3)[1]) == 29
    everything = poison(data, PatchTrigger(share=1.0, target=2), 3)
    assert len(everything[1]) == 50
    assert set(everything[0].labels.tolist()) == {2}


def test_every_example_is_drawn_as_often() -> None:
    data = images(20)
    times = torch.zeros(20)
    for seed in range(300):
        times += data.contains(poison(data, PatchTrigger(size=1, count=5, seed=seed), 3)[1])
    assert stats.chisquare(times.numpy()).pvalue > 0.001


# triggered


@pytest.mark.parametrize("trigger", TRIGGERS[:2])
@pytest.mark.parametrize("clean_label", [False, True])
def test_triggered_are_the_other_classes_labelled_as_the_target(trigger: Trigger, clean_label: bool) -> None:
    test = images(31)
    config = replace(trigger, count=3, target=2, clean_label=clean_label, seed=8)
    asked = triggered(test, config)
    others = test.labels != 2
    assert torch.equal(asked.ids, test.ids[others])
    assert asked.labels.tolist() == [2] * int(others.sum())
    assert torch.equal(asked.inputs, stamp(test, config).inputs[others])


def test_training_and_test_images_carry_the_same_pattern() -> None:
    data = images(as_float=True)
    config = BlendTrigger(alpha=1.0, share=1.0, target=0, seed=9)
    assert torch.equal(poison(data, config, 3)[0].inputs[0], triggered(data, config).inputs[0])


def test_gaussian_noise_has_no_trigger() -> None:
    assert len(triggered(images(), GaussianPoison(count=1))) == 0


def test_the_attack_success_rate() -> None:
    logits = torch.eye(3)[torch.tensor([0, 0, 2, 1])]
    asked = Predictions(logits, torch.zeros(4, dtype=torch.int64), torch.arange(4))
    # Nothing of class 0 is retained: test accuracy leaves it out, the attack may still lead to it.
    retain = Predictions(torch.eye(3)[1:], torch.tensor([1, 2]), torch.arange(2))
    context = Context(torch.Generator())
    found = measure(Subject({"retain": retain, "triggered": asked}, {}), context)
    assert found == {"attack_success_rate": 50.0}
    nothing = asked.select(torch.zeros(4, dtype=torch.bool))
    assert measure(Subject({"retain": retain}, {}), context) == {}
    assert measure(Subject({"triggered": nothing}, {}), context) == {}


# bad values


@pytest.mark.parametrize(
    ("make", "cure"),
    [
        (lambda: PatchTrigger(size=0), "size must be .* at least 1"),
        (lambda: PatchTrigger(margin=-1), "margin must be .* at least 0"),
        (lambda: PatchTrigger(value=1.1), r"value must be in \[0, 1\]"),
        (lambda: BlendTrigger(alpha=0.0), "alpha must be .* above 0"),
        (lambda: BlendTrigger(alpha=1.5), r"alpha must be in \[0, 1\]"),
        (lambda: BlendTrigger(alpha=float("nan")), "alpha must be"),
        (lambda: GaussianPoison(sigma=0.0), "sigma must be .* above 0"),
        (lambda: GaussianPoison(sigma=float("inf")), "sigma must be .* above 0"),
        (lambda: PatchTrigger(share=0.1, count=3), "not both"),
        (lambda: PatchTrigger(share=0.0), "share must be .* above 0"),
        (lambda: PatchTrigger(share=1.1), r"share must be in \[0, 1\]"),
        (lambda: PatchTrigger(count=0), "count must be .* at least 1"),
        (lambda: PatchTrigger(count=1, target=-1), "target must be .* at least 0"),
        (lambda: poison(images(), PatchTrigger(count=1, target=3), 3), r"class 3: classes are 0\.\.2"),
        (lambda: poison(images(12), PatchTrigger(count=13), 3), "cannot take 13 of 12 training examples: give a sm"),
        (lambda: poison(images(12), PatchTrigger(count=5, clean_label=True), 3), "5 of 4 training examples of class 0"),
        (lambda: poison(images(12), PatchTrigger(share=0.01), 3), "less than one: give a larger share"),
        (lambda: stamp(images(), PatchTrigger(size=7, margin=2)), "does not fit images of 9 x 8: .* may be at most 8"),
        (lambda: stamp(images(), PatchTrigger(size=9, place="centre")), "does not fit images of 9 x 8"),
        (lambda: stamp(images(shape=(20,)), PatchTrigger()), "channels, height, width"),
        (
            lambda: stamp(
                TensorImages(torch.full((1, 1, 9, 9), 2.0), torch.tensor([0]), torch.tensor([0])), BlendTrigger()
            ),
            r"must be in \[0, 1\] to be poisoned, found 2 to 2: rescale",
        ),
    ],
)
def test_bad_values_are_refused_with_the_cure(make, cure: str) -> None:  # type: ignore[no-untyped-def]
    with pytest.raises(RequestError, match=cure):
        make()


# text


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("patch", PatchTrigger()),
        ("patch:size=4,target=0,share=10%", PatchTrigger(size=4, share=0.1)),
        (
            "patch:10%,size=3,margin=0,place=top_left,value=1",
            PatchTrigger(size=3, place="top_left", margin=0, value=1.0, share=0.1),
        ),
        (
            "blend:alpha=0.5,count=20,target=7,clean-label=true,seed=3",
            BlendTrigger(alpha=0.5, count=20, target=7, clean_label=True, seed=3),
        ),
        ("gaussian:sigma=0.3,count=500", GaussianPoison(sigma=0.3, count=500)),
        ("gaussian:25%,sigma=0.3", GaussianPoison(sigma=0.3, share=0.25)),
    ],
)
def test_text(text: str, expected: Poison) -> None:
    assert parse("poisons", text) == expected


@pytest.mark.parametrize(
    ("text", "cure"),
    [
        ("pach", "did you mean patch"),
        ("", "there are: blend, gaussian, patch"),
        ("patch:sise=3", "no option 'sise'; did you mean size"),
        ("patch:trigger=3", "no option 'trigger'"),
        ("patch:share=x%", "expected float, got 'x%'"),
        ("patch:share=120%", r"share must be in \[0, 1\]"),
        ("patch:share=10%,count=3", "not both"),
        ("patch:place=top", "expected one of bottom_right"),
        ("patch:count=2.5", "expected int"),
        ("gaussian:alpha=0.1", "no option 'alpha'"),
        ("gaussian:target=2", "no option 'target'"),
    ],
)
def test_bad_text_is_refused_with_the_cure(text: str, cure: str) -> None:
    with pytest.raises(RequestError, match=cure):
        parse("poisons", text)


@pytest.mark.parametrize("trigger", TRIGGERS)
def test_poison_survives_json(trigger: Trigger) -> None:
    config = replace(trigger, count=3, seed=2)
    assert (
        configuration.from_data(DataConfig, configuration.to_data(DataConfig("digits", poison=config))).poison == config
    )


# the forget set


def test_the_poisoned_examples_are_forgotten() -> None:
    data = images(30)
    _, ids = poison(data, PatchTrigger(size=3, count=7), 3)
    wanted = parse("forget_sets", "poisoned")
    generator = torch.Generator().manual_seed(0)
    assert torch.equal(forget_ids(wanted, data, generator, 3, poisoned=ids.flip(0)), ids)
    assert configuration.plugin_from_data("forget_sets", {"name": "poisoned"}) == wanted


@pytest.mark.parametrize("poisoned", [None, torch.empty(0, dtype=torch.int64)])
def test_without_poison_there_is_nothing_to_forget(poisoned: torch.Tensor | None) -> None:
    with pytest.raises(RequestError, match="was not trained on poisoned data; begin with expunge train --poison"):
        forget_ids(parse("forget_sets", "poisoned"), images(), torch.Generator(), 3, poisoned)


def test_other_forget_sets_do_not_look_at_the_poison() -> None:
    data = images(30)
    generator = torch.Generator().manual_seed(0)
    got = forget_ids(parse("forget_sets", "class:1"), data, generator, 3, poisoned=torch.tensor([5]))
    assert torch.equal(got, data.ids[data.labels == 1].sort().values)


def test_poisoned_examples_must_be_there_and_not_all() -> None:
    data = images(6)
    with pytest.raises(RequestError, match="not in the training set: 1000"):
        forget_ids(parse("forget_sets", "poisoned"), data, torch.Generator(), 3, torch.tensor([1000]))
    with pytest.raises(RequestError, match="nothing would be retained"):
        forget_ids(parse("forget_sets", "poisoned"), data, torch.Generator(), 3, data.ids)
    with pytest.raises(RequestError, match="should be key=value"):
        parse("forget_sets", "poisoned:3")
