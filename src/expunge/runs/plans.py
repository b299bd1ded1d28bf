"""What runs there are: one configuration per kind of run, their names, and which come before which."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Annotated

from expunge.core import config, registry
from expunge.core.config import Choice, Later
from expunge.core.errors import RequestError
from expunge.data.forgetting import Forget, RandomForget
from expunge.data.poisoning import Poison
from expunge.methods.retrain import RetrainConfig
from expunge.training.fit import Training
from expunge.training.stepper import Precision
from expunge.trajectory.store import StoreType
from expunge.unlearning import presets
from expunge.unlearning.unlearn import Unlearning


@dataclass(frozen=True)
class DataConfig:
    """Which images, and how they are split."""

    source: Annotated[object, Choice("data")]
    """Where the images come from."""
    limit: int | None = None
    """Use a class-balanced part of this many training images; all by default."""
    test_limit: int | None = None
    """Use a class-balanced part of this many test images; all by default."""
    validation: float = 0.1
    """Share of each class that is set aside for validation."""
    seed: int = 0
    """Seed of these choices."""
    poison: Poison | None = None
    """A backdoor that somebody has put into the training images; none by default."""


@dataclass(frozen=True)
class TrainConfig:
    """The training of an original model, on forget and retain set together."""

    data: DataConfig
    """The images."""
    model: Annotated[object, Choice("models")]
    """The architecture."""
    training: Training = Training()
    """How it is trained."""
    precision: Precision = "auto"
    """Precision of the forward passes: bfloat16 where it pays, or as said."""
    seed: int = 0
    """Seed of the initial weights, the order of examples and the augmentation."""


@dataclass(frozen=True)
class PruneConfig:
    """A model that was pruned, and trained on under its sparsity mask.

    Iterative pruning (a pruner with ``rounds``) is a chain of runs: the parent of the last round is the same
    configuration with one round less.
    """

    original: Annotated["Original", Later(lambda: Original)]
    """The model to prune."""
    pruner: Annotated[object, Choice("pruning")]
    """How the weights to prune are chosen."""
    rewind: int | None = None
    """Let the weights that are left go back to what they were after this epoch of the original training, 0 being
    before it, and train on from that position of the schedule; by default they keep their trained values, and the
    schedule begins anew."""
    retraining: Training | None = None
    """How it is trained on; by default as the original was."""
    precision: Precision = "auto"
    """Precision of the forward passes: bfloat16 where it pays, or as said."""
    seed: int = 0
    """Seed of the pruning, the order of examples and the augmentation."""

    def __post_init__(self) -> None:
        """Check that the epoch to go back to exists."""
        if self.rewind is None:
            return
        trained = base(self.original)
        if isinstance(trained, ImportConfig):
            raise RequestError("an imported model has no earlier epochs to go back to: prune it without rewind")
        if not 0 <= self.rewind <= trained.training.epochs:
            raise RequestError(f"rewind must be an epoch in 0..{trained.training.epochs}, got {self.rewind}")

    @property
    def data(self) -> DataConfig:
        """The images of the original."""
        return self.original.data

    @property
    def model(self) -> object:
        """The architecture of the original."""
        return self.original.model

    @property
    def training(self) -> Training:
        """How it was trained; what goes on under a mask is never recorded."""
        return replace(self.retraining or self.original.training, record=False, fixed_order=False)


@dataclass(frozen=True)
class ImportConfig:
    """A model that other code has trained, read from its checkpoint."""

    data: DataConfig
    """The images it was trained on."""
    model: Annotated[object, Choice("models")]
    """Its architecture."""
    sha256: str
    """The digest of the checkpoint's bytes: wherever the file is, it is this one."""
    training: Training = Training()
    """How it was trained, as far as is known: retraining repeats it."""
    precision: Precision = "auto"
    """Precision of forward passes."""
    seed: int = 0
    """A number to tell imports apart."""


Original = TrainConfig | PruneConfig | ImportConfig
"""A model that has learned too much."""


def base(original: Original) -> TrainConfig | ImportConfig:
    """The training at the beginning of a chain of prunings."""
    return base(original.original) if isinstance(original, PruneConfig) else original


@dataclass(frozen=True)
class UnlearnConfig:
    """One unlearning of a trained model."""

    original: Original
    """The model that has learned too much."""
    forget: Forget
    """What it is to forget."""
    unlearning: Unlearning
    """How."""
    forget_seed: int = 0
    """Seed of the choice of the forget set."""
    precision: Precision = "auto"
    """Precision of the forward passes: bfloat16 where it pays, or as said."""
    seed: int = 0
    """Seed of the unlearning itself."""


@dataclass(frozen=True)
class StageConfig:
    """An expensive stage of a method that does not depend on the forget set: made once for all that share it."""

    original: Original
    """The model that it was made for."""
    name: str
    """What the method calls it: ``attacker``."""
    plan: Mapping[str, object]
    """Every hyperparameter that it depends on."""
    precision: Precision = "auto"
    """Precision of the forward passes."""
    seed: int = 0
    """Seed of the stage."""


@dataclass(frozen=True)
class PrecomputeConfig:
    """The vectors of a recorded training, for every example or for groups of them."""

    original: TrainConfig
    """The recorded training."""
    dtype: StoreType = "float32"
    """The precision in which they are kept."""
    groups: tuple[tuple[int, ...], ...] = ()
    """The ids of each group, such as all examples of one person; every example by itself by default."""
    as_released: bool = False
    """The vectors of the released recursion."""

    def __post_init__(self) -> None:
        """Check that there is a trajectory, and that no example is in two groups."""
        if not self.original.training.record:
            raise RequestError("the training was not recorded: train with `expunge train --record`")
        ids = [example for group in self.groups for example in group]
        if len(set(ids)) != len(ids) or not all(self.groups):
            raise RequestError("groups must not be empty, and each example can be in one group only")

    @property
    def data(self) -> DataConfig:
        """The images of the original."""
        return self.original.data


@dataclass(frozen=True)
class ScoreConfig:
    """A number for every training example of a model."""

    original: Original
    """The model."""
    score: Annotated[object, Choice("scores")]
    """What is computed of each example."""
    seed: int = 0
    """Seed of random choices within the score."""

    @property
    def data(self) -> DataConfig:
        """The images of the original."""
        return self.original.data


def every_metric() -> tuple[object, ...]:
    """All metrics there are, each with its defaults."""
    return tuple(plugin.config() for plugin in registry.plugins("metrics").values())


@dataclass(frozen=True)
class EvaluateConfig:
    """The metrics of one unlearned model, beside its reference."""

    subject: UnlearnConfig
    """The unlearned model."""
    reference: UnlearnConfig | None = None
    """The retrained model that it should resemble."""
    metrics: tuple[Annotated[object, Choice("metrics")], ...] = field(default_factory=every_metric)
    """Which metrics; by default all there are, each by name, so that a new metric makes a new evaluation."""
    seed: int = 0
    """Seed of random choices within metrics."""
    shadows: int = 0
    """How many shadow models are trained, if they are not there, for the attack ``lira``; none by default."""

    def __post_init__(self) -> None:
        """A model is compared with one of its kind that was retrained without the same examples."""
        check_shadows(self.shadows)
        if self.reference is None:
            return
        if not isinstance(self.reference.unlearning.method, RetrainConfig):
            given = registry.of_config("methods", self.reference.unlearning.method).name
            raise RequestError(f"the reference must be a run of `expunge unlearn ... retrain`, this is one of {given}")
        if _forgotten(self.reference) != _forgotten(self.subject):
            raise RequestError(
                "the reference has forgotten other examples than the model to evaluate: retrain with the same data, "
                "--forget and --forget-seed"
            )
        if self.reference.original.model != self.subject.original.model:
            raise RequestError("the reference is of another architecture than the model to evaluate: retrain that one")


def check_shadows(count: int) -> None:
    """Raise a RequestError unless there can be so many shadow models.

    With fewer than four, no spread could be told for many examples.
    """
    if count and count < 4:
        raise RequestError(f"shadows must be 0 or at least 4 (16 is usual), got {count}")


def _forgotten(wanted: UnlearnConfig) -> tuple[object, ...]:
    return wanted.original.data, wanted.forget, wanted.forget_seed


SHADOW_SEED = 1_000_000
"""The first seed of shadow models, far from those of comparisons: at one seed, smaller forget sets lie in larger."""


def shadows(wanted: EvaluateConfig) -> list[UnlearnConfig]:
    """The shadow models of an evaluation: the original's training, without a random half of its examples each.

    They depend on the original alone, so that all methods and forget sets share them.
    """
    original = wanted.subject.original
    half, again = RandomForget(percent=50.0), retraining(original.training)
    seeds = range(SHADOW_SEED, SHADOW_SEED + wanted.shadows)
    return [UnlearnConfig(original, half, again, seed, original.precision, seed) for seed in seeds]


def retraining(plan: Training) -> Unlearning:
    """Retraining as the original was trained."""
    return Unlearning(RetrainConfig(plan.epochs, plan.batch_size, plan.rule, recorded=plan.record))


RunConfig = (
    TrainConfig
    | PruneConfig
    | ImportConfig
    | UnlearnConfig
    | StageConfig
    | EvaluateConfig
    | PrecomputeConfig
    | ScoreConfig
)


def run_id(wanted: RunConfig) -> str:
    """The name of a run's directory: its kind, a few words for people, and twelve digits of its digest."""
    return f"{kind(wanted)}-{_words(wanted)}-{config.digest(wanted, RunConfig)[:12]}"


def kind(wanted: RunConfig) -> str:
    """``train``, ``prune``, ``import``, ``unlearn``, ``stage``, ``evaluate``, ``precompute`` or ``score``."""
    return config.tag(type(wanted)).removesuffix("_config")


def _words(wanted: RunConfig) -> str:
    match wanted:
        case TrainConfig() | ImportConfig():
            data = registry.of_config("data", wanted.data.source).name
            return f"{data}-{registry.of_config('models', wanted.model).name}-s{wanted.seed}"
        case PrecomputeConfig():
            return f"{'groups' if wanted.groups else 'examples'}-{wanted.dtype}"
        case EvaluateConfig():
            return _words(wanted.subject)
        case PruneConfig() | UnlearnConfig() | StageConfig() | ScoreConfig():
            return f"{label(wanted)}-s{wanted.seed}"


def parents(wanted: RunConfig) -> dict[str, RunConfig]:
    """The runs that must exist before this one, by their role in it."""
    match wanted:
        case TrainConfig() | ImportConfig():
            return {}
        case PruneConfig():
            return {"original": _round_before(wanted)} | _start(wanted)
        case UnlearnConfig() | StageConfig() | PrecomputeConfig() | ScoreConfig():
            return {"original": wanted.original}
        case EvaluateConfig(subject, reference):
            found: dict[str, RunConfig] = {"original": subject.original, "subject": subject}
            found |= {} if reference is None else {"reference": reference}
            return found | {f"shadow.{number}": shadow for number, shadow in enumerate(shadows(wanted))}


def _round_before(wanted: PruneConfig) -> Original:
    """What a round of pruning begins with: the round before, or the original model."""
    rounds = getattr(wanted.pruner, "rounds", 1)
    if rounds <= 1:
        return wanted.original
    return replace(wanted, pruner=replace(wanted.pruner, rounds=rounds - 1))  # pyright: ignore


def _start(wanted: PruneConfig) -> dict[str, RunConfig]:
    """The training stopped at the epoch whose weights a pruned model goes back to."""
    trained = base(wanted.original)
    if wanted.rewind is None or isinstance(trained, ImportConfig):
        return {}
    return {"start": replace(trained, training=replace(trained.training, stop_after=wanted.rewind))}


DENSE = "dense"
"""The word for no pruning among texts of prunings."""


def pruned(original: Original, text: str) -> Original:
    """The original pruned as ``PRUNER:key=value,...[,rewind=EPOCH]`` says; ``dense`` leaves it as it is.

    Raises:
        RequestError: A name or value is wrong.
    """
    if text == DENSE:
        return original
    name, _, rest = text.partition(":")
    given = config.assignments(rest, "rate", name)
    rewind = given.pop("rewind", None)
    if not (rewind is None or type(rewind) is int):
        raise RequestError(f"{name}: rewind must be an epoch, got {rewind!r}")
    plugin = registry.find("pruning", name)
    pruner = config.override(plugin.config, {}, given, f"pruner {plugin.name}")
    return PruneConfig(original, pruner, rewind, precision=original.precision, seed=original.seed)


def scenario(original: Original) -> str:
    """What sets an original apart from a model that is simply trained: how it was pruned; empty for none."""
    if not isinstance(original, PruneConfig):
        return ""
    text = config.text("pruning", original.pruner)
    if original.rewind is not None:
        text += f"{',' if ':' in text else ':'}rewind={original.rewind}"
    return f"{before}, {text}" if (before := scenario(original.original)) else text


def label(wanted: RunConfig) -> str:
    """The word for a run in tables: that of its unlearning, the name of a stage, nothing for training."""
    match wanted:
        case TrainConfig() | ImportConfig() | PrecomputeConfig():
            return ""
        case ScoreConfig():
            return registry.of_config("scores", wanted.score).name
        case PruneConfig():
            return registry.of_config("pruning", wanted.pruner).name
        case StageConfig():
            return wanted.name
        case UnlearnConfig():
            return presets.label(wanted.unlearning)
        case EvaluateConfig():
            return label(wanted.subject)
