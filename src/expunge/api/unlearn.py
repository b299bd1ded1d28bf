"""The Python interface: ``expunge.unlearn`` and ``expunge.evaluate`` on a user's own model and data."""

from collections.abc import Callable, Iterator, Mapping
from collections.abc import Sequence as SequenceOf
from dataclasses import dataclass, field

import torch
from torch import nn

from expunge.api.inputs import (
    Images,
    as_image_set,
    check_disjoint,
    check_images,
    check_settings,
    device_for,
    device_of,
    num_classes,
    restored_on_error,
    standard_torch,
    student_of,
)
from expunge.core import config, randomness, registry, weights
from expunge.core.errors import RequestError
from expunge.data.augment import Augmentation
from expunge.data.image_set import ImageSet
from expunge.data.unlearning_data import UnlearningData
from expunge.evaluation.predictions import Subject, predict
from expunge.evaluation.predictions import evaluate as run_metrics
from expunge.training.context import Context
from expunge.training.precision import RequestedPrecision, chosen
from expunge.training.rules import Rule
from expunge.trajectory.plan import Trajectory
from expunge.unlearning import presets
from expunge.unlearning.sequence import Sequence
from expunge.unlearning.sequence import run as run_sequence
from expunge.unlearning.unlearn import Unlearning
from expunge.unlearning.unlearn import unlearn as run_unlearning


@dataclass(frozen=True)
class Result:
    """An unlearned model, with times and history."""

    model: nn.Module
    """The unlearned model, in evaluation mode, on the device of the computation."""
    seconds: Mapping[str, float]
    """Wall-clock seconds by phase: ``precompute`` (if any) and ``unlearn``."""
    history: SequenceOf[Mapping[str, object]]
    """One record per step: ``step``, ``lr`` and ``loss`` by role."""
    steps: Mapping[str, int]
    """The number of steps for each role."""
    notes: Mapping[str, object]
    """Further results of the method, such as the checkpoint that SCRUB rewinds to."""


@dataclass(frozen=True)
class Audit(Mapping[str, float]):
    """The metrics of a model by full name: ``audit["membership_svc.confidence"]``."""

    values_by_name: Mapping[str, float]
    left_out: Mapping[str, str] = field(default_factory=dict[str, str])
    """Metrics that could not be computed, with the reason."""
    reference: Subject | None = field(default=None, repr=False)
    """The retrained model as it was scored: give it to further calls as ``reference=``."""

    def __getitem__(self, name: str) -> float:
        """One metric.

        Raises:
            KeyError: There is none of that name; the message suggests similar names.
        """
        if name not in self.values_by_name:
            raise KeyError(registry.unknown("metric", name, self.values_by_name))
        return self.values_by_name[name]

    def __iter__(self) -> Iterator[str]:
        """The names."""
        return iter(self.values_by_name)

    def __len__(self) -> int:
        """The number of metrics."""
        return len(self.values_by_name)

    def table(self) -> str:
        """All metrics as a Markdown table."""
        width = max((len(name) for name in self), default=6)
        rows = [f"| {name:<{width}} | {value:>10.4g} |" for name, value in self.items()]
        return "\n".join([f"| {'metric':<{width}} | {'value':>10} |", f"|{'-' * (width + 2)}|{'-' * 11}:|", *rows])


def unlearn(
    model: nn.Module,
    *,
    forget: Images,
    retain: Images,
    method: str | Unlearning | object = "finetune",
    validation: Images | None = None,
    seed: int = 0,
    device: torch.device | str | None = None,
    precision: RequestedPrecision = "auto",
    augmentation: Augmentation | None = None,
    in_place: bool = False,
    trajectory: Trajectory | None = None,
    **options: object,
) -> Result:
    """Unlearn the forget set from ``model``.

    Args:
        model: Any module that maps (batch, channels, height, width) to (batch, classes) logits.
        forget: The forget set: an ImageSet, a pair (images, labels), or a map-style dataset of (image, label).
            uint8 images are converted to float in [0, 1]; float images are passed to the model unchanged.
        retain: The retain set, likewise.
        method: A method or preset by name (``expunge list methods``), or its configuration.
        validation: Validation images, for methods that use them.
        seed: Seed of all random choices.
        device: The device to compute on; by default that of the model.
        precision: ``float32``, ``bfloat16``, ``mixed``, or ``auto`` (see ``expunge.training.precision.chosen``).
        augmentation: Random crop and flip for training batches; none by default.
        in_place: Modify ``model`` itself instead of a copy.
        trajectory: The recorded training of the model, for methods that need it (``expunge.train_recorded``);
            ``forget`` and ``retain`` are then ImageSets with the ids of that training.
        **options: Hyperparameters of the method (``epochs=5``), of its update rule (``lr=0.1``), or of its
            update mask (``**{"mask.fraction": 0.3}``).

    Returns:
        The unlearned model, seconds by phase, and the losses of every step.

    Raises:
        RequestError: The request is wrong; the message says what to change.
        RunError: A loss or a weight is NaN or infinite.
    """
    check_settings(seed, precision)
    wanted = _unlearning(method, options)
    place = device_for(device, model)
    with standard_torch():
        kept = as_image_set(retain, augmentation=augmentation)
        forgotten = as_image_set(forget, first_id=_next_id(kept), augmentation=augmentation)
        held = None if validation is None else as_image_set(validation)
        check_disjoint(forgotten, kept)
        student = student_of(model, place, in_place=in_place)
        with restored_on_error(student, in_place):
            classes = num_classes(student, kept, place)
            for name, images in (("forget", forgotten), ("retain", kept), ("validation", held)):
                check_images(name, images, kept.shape, classes)
            context = _context(seed, place, precision, trajectory)
            parts = (forgotten.to(place), kept.to(place), None if held is None else held.to(place))
            data = UnlearningData(*parts, classes)
            unlearned = run_unlearning(student, data, wanted, context, {"trajectory": trajectory})
    return Result(unlearned, dict(context.seconds), context.history(), context.steps(), dict(context.notes))


def unlearn_sequence(
    model: nn.Module,
    train: Images,
    sequence: Sequence,
    *,
    validation: Images | None = None,
    seed: int = 0,
    device: torch.device | str | None = None,
    precision: RequestedPrecision = "auto",
    augmentation: Augmentation | None = None,
    trajectory: Trajectory | None = None,
) -> list[Result]:
    """Unlearn from a copy of ``model`` in several steps: ``Sequence(("class:3", "scrub"), ("random:9", "finetune"))``.

    A step chooses among the remaining examples; it neither forgets nor retains those forgotten before and those that it
    withholds. The reference of the last model is retraining without the union of the forget sets.

    Args:
        model: Any module that maps images to logits.
        train: Its training set.
        sequence: The steps.
        validation: Validation images, for methods that use them.
        seed: Seed of each unlearning; forget sets have their own seeds.
        device: The device to compute on; by default that of the model.
        precision: ``float32``, ``bfloat16``, ``mixed``, or ``auto`` (see ``expunge.training.precision.chosen``).
        augmentation: Random crop and flip for training batches; none by default.
        trajectory: The recorded training of the model, for methods that need it.

    Returns:
        The result of each step, with the ids that it forgot in its notes: ``result.notes["forgotten"]``.

    Raises:
        RequestError: The request is wrong; the message says what to change.
        RunError: A loss or a weight is NaN or infinite.
    """
    check_settings(seed, precision)
    place = device_for(device, model)
    with standard_torch():
        return _in_sequence(
            student_of(model, place),
            as_image_set(train, augmentation=augmentation).to(place),
            None if validation is None else as_image_set(validation).to(place),
            sequence,
            lambda: _context(seed, place, precision, trajectory),
            trajectory,
        )


def _in_sequence(
    student: nn.Module,
    images: ImageSet,
    held: ImageSet | None,
    sequence: Sequence,
    circumstances: Callable[[], Context],
    trajectory: Trajectory | None,
) -> list[Result]:
    """The result of each step of a sequence on ``student``, which is changed."""
    place = images.device
    classes = num_classes(student, images, place)
    for name, given in (("train", images), ("validation", held)):
        check_images(name, given, images.shape, classes)
    found: list[Result] = []
    steps = run_sequence(student, images, held, classes, sequence, circumstances, trajectory)
    for unlearned, ids, now in steps:
        notes = {**now.notes, "forgotten": ids.tolist()}
        found.append(Result(weights.clone(unlearned), dict(now.seconds), now.history(), now.steps(), notes))
    return found


def evaluate(
    model: nn.Module,
    *,
    forget: Images,
    retain: Images,
    test: Images,
    reference: nn.Module | Subject | None = None,
    original: nn.Module | None = None,
    metrics: SequenceOf[str | object] | None = None,
    seed: int = 0,
    device: torch.device | str | None = None,
) -> Audit:
    """Compute the metrics of an unlearned model.

    Args:
        model: The unlearned model.
        forget: The forget set.
        retain: The retain set.
        test: The test set.
        reference: A model retrained without the forget set, for gaps and distances to it; or ``audit.reference`` of an
            earlier call on the same sets, which is not scored again.
        original: The model before unlearning, for changes of weights and losses.
        metrics: Names or configurations; all by default (``expunge list metrics``).
        seed: Seed of random choices within metrics.
        device: The device to compute on; by default that of the model.

    Returns:
        The metrics by full name; a Mapping, with ``.table()``. Those that cannot be computed are in ``left_out``.
    """
    check_settings(seed)
    place = device_for(device, model)
    chosen, left_out = _metrics(metrics), dict[str, str]()

    def score(subject: Subject) -> dict[str, float]:
        return run_metrics(subject, chosen, Context(randomness.generator(seed, "evaluation"), place), left_out)

    with standard_torch():
        kept = as_image_set(retain)
        splits = {"forget": as_image_set(forget, first_id=_next_id(kept)), "retain": kept, "test": as_image_set(test)}
        check_disjoint(splits["forget"], kept)
        before = None if original is None else _subject(original, splits, place)
        judged = _subject(reference, splits, place, before) if isinstance(reference, nn.Module) else reference
        if isinstance(reference, nn.Module) and judged is not None:
            score(judged)
        values = score(_subject(model, splits, place, before, judged))
    return Audit(values, left_out, judged)


def _context(seed: int, device: torch.device, precision: RequestedPrecision, trajectory: Trajectory | None) -> Context:
    """The context of an unlearning, with the precision and the update rule of the training as far as they are known."""
    rule = None if trajectory is None else Rule(weight_decay=trajectory.plan.l2)
    generator = randomness.generator(seed, "unlearning", device=device)
    return Context(generator, device, chosen(precision, device), original_rule=rule)


def _next_id(images: ImageSet) -> int:
    return int(images.ids.max()) + 1 if len(images) else 0


def _unlearning(method: object, options: Mapping[str, object]) -> Unlearning:
    if isinstance(method, str):
        return presets.named(method, options)
    if options:
        raise RequestError("give hyperparameters within the configuration of the method, or name the method by text")
    return method if isinstance(method, Unlearning) else Unlearning(method)


def _metrics(metrics: SequenceOf[str | object] | None) -> list[object]:
    if metrics is None:
        return [plugin.config() for plugin in registry.plugins("metrics").values()]
    return [config.parse("metrics", metric) if isinstance(metric, str) else metric for metric in metrics]


def _subject(
    model: nn.Module,
    splits: Mapping[str, ImageSet],
    device: torch.device,
    original: Subject | None = None,
    reference: Subject | None = None,
) -> Subject:
    model = model if device_of(model) == device else weights.clone(model).to(device)
    predictions = {name: predict(model, images, device) for name, images in splits.items()}
    parameters = {name: weight.detach().cpu() for name, weight in model.named_parameters()}
    return Subject(predictions, parameters, original, reference=reference)
