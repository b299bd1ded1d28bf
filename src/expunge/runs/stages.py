"""Expensive stages of methods that do not depend on the forget set: each a run of its own, which others share."""

from dataclasses import dataclass, field

from torch import Tensor

from expunge.core import config, randomness
from expunge.runs.execution import Session, once
from expunge.runs.plans import StageConfig, UnlearnConfig, run_id
from expunge.store.directory import Draft, Record, Store
from expunge.training.context import Context, Make


@dataclass
class Stages:
    """Keeps the stages of one unlearning: what :meth:`Context.stage` calls."""

    wanted: UnlearnConfig
    context: Context
    store: Store
    session: Session
    made: dict[str, str] = field(default_factory=dict[str, str])
    """The run of each stage so far."""

    def __call__(self, name: str, plan: object, make: Make) -> dict[str, Tensor]:
        """The tensors of a stage, found or made; the seconds that it took to make them count either way."""
        wanted, device = self.wanted, self.session.device
        stage = StageConfig(wanted.original, name, config.to_data(plan), wanted.precision, wanted.seed)
        clock = Context(randomness.generator(wanted.seed, "stage", name, device=device), device)

        def work(draft: Draft) -> Record:
            with clock.phase("precompute"):
                draft.tensors(name, make(clock.generator))
            return {"seconds": clock.seconds}

        with self.context.phase("elsewhere"):  # making it, or waiting for another process that does
            original = self.store.directory(run_id(wanted.original))
            directory = once(stage, {"original": original}, self.store, self.session, work)
        self.context.seconds.pop("elsewhere")
        spent = self.context.seconds.get("precompute", 0.0)
        self.context.seconds["precompute"] = spent + directory.seconds()["precompute"]
        self.made[name] = directory.id
        return {key: tensor.to(device) for key, tensor in directory.tensors(name).items()}
