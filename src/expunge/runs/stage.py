"""An expensive stage of a method that does not depend on the forget set: a run of its own, which others share."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Annotated

from torch import Tensor

from expunge.core import config as configurations
from expunge.core import randomness, registry
from expunge.core.config import Choice
from expunge.core.errors import RequestError
from expunge.store import run
from expunge.store.directory import Draft, Record, RunDirectory, Store
from expunge.store.execute import Session, once
from expunge.store.run import GivesModel
from expunge.training.context import Context, Make
from expunge.training.stepper import Precision


@dataclass(frozen=True)
class StageConfig:
    """An expensive stage of a method that does not depend on the forget set."""

    original: Annotated[GivesModel, Choice("runs", model=True)]
    """The model that it was made for."""
    name: str
    """What the method calls it: ``attacker``."""
    plan: Mapping[str, object]
    """Every hyperparameter that it depends on."""
    precision: Precision = "auto"
    """Precision of the forward passes."""
    seed: int = 0
    """Seed of the stage."""


def _label(config: StageConfig) -> str:
    return config.name


@registry.run(label=_label)
def work(config: StageConfig, parents: Mapping[str, RunDirectory], draft: Draft, session: Session) -> Record:
    """A stage is made by the unlearning that needs it; see :class:`Stages`.

    Raises:
        RequestError: Always.
    """
    raise RequestError("a stage is made by the run that needs it, not by itself")


@dataclass
class Stages:
    """Keeps the stages of one unlearning: what :meth:`Context.stage` calls."""

    original: GivesModel
    precision: Precision
    seed: int
    context: Context
    store: Store
    session: Session
    made: dict[str, str] = field(default_factory=dict[str, str])
    """The run of each stage so far."""

    def __call__(self, name: str, plan: object, make: Make) -> dict[str, Tensor]:
        """The tensors of a stage, found or made; the seconds that it took to make them count either way."""
        device = self.session.device
        stage = StageConfig(self.original, name, configurations.to_data(plan), self.precision, self.seed)
        clock = Context(randomness.generator(self.seed, "stage", name, device=device), device)

        def work(draft: Draft) -> Record:
            with clock.phase("precompute"):
                draft.tensors(name, make(clock.generator))
            return {"seconds": clock.seconds}

        with self.context.phase("elsewhere"):  # making it, or waiting for another process that does
            original = self.store.directory(run.run_id(self.original))
            directory = once(stage, {"original": original}, self.store, self.session, work)
        self.context.seconds.pop("elsewhere")
        spent = self.context.seconds.get("precompute", 0.0)
        self.context.seconds["precompute"] = spent + directory.seconds()["precompute"]
        self.made[name] = directory.id
        return {key: tensor.to(device) for key, tensor in directory.tensors(name).items()}
