"""Everything about a run that is not a hyperparameter."""

import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace

import torch
from torch import nn

from expunge.core import randomness
from expunge.core.errors import RequestError
from expunge.core.masks import Mask
from expunge.training.precision import Precision
from expunge.training.rules import WEIGHT_DECAY, PerRole, Rule, weight_decay_of
from expunge.training.stepper import Progress, Stepper


@dataclass
class Context:
    """The circumstances of one run: randomness, device, precision, masks, progress and clock."""

    generator: torch.Generator
    device: torch.device = field(default_factory=lambda: torch.device("cpu"))
    precision: Precision = "float32"
    sparsity: Mask | None = None
    """Weights that are false here stay exactly zero."""
    update_masks: Mask | Mapping[str, Mask] | None = None
    """Weights that are false here do not move; one mask for all, or one per role."""
    freeze_statistics: bool = False
    """Whether batch normalisation keeps its running statistics while the model is trained."""
    on_step: Callable[[Progress], None] | None = None
    """Called after every step; must not wait for the device."""
    original_rule: Rule | None = None
    """The update rule by which the original was trained, where that is known: its weight decay is the default."""
    seconds: dict[str, float] = field(default_factory=dict)
    """Wall-clock seconds per phase."""
    notes: dict[str, object] = field(default_factory=dict[str, object])
    """Notes of the method for its user, JSON-ready: they go into the result."""
    steppers: list[Stepper] = field(default_factory=list)
    """The steppers made so far: their losses are the history of the run."""
    _phases: list[str] = field(default_factory=list[str], init=False, repr=False)
    _since: float = field(default=0.0, init=False, repr=False)

    def stepper(self, model: nn.Module, rule: Rule | PerRole, steps: int, first: int = 0) -> Stepper:
        """The stepper that trains ``model`` by ``rule``, whose schedule spans ``steps`` calls, under this run's masks.

        ``first`` is the position in the schedule of the first call.
        """
        if isinstance(rule, PerRole):
            rule = replace(rule, forget=self._decayed(rule.forget), retain=self._decayed(rule.retain))
        else:
            rule = self._decayed(rule)
        made = Stepper(
            model,
            rule,
            steps,
            first=first,
            device=self.device,
            precision=self.precision,
            sparsity=self.sparsity,
            update_masks=self.update_masks,
            freeze_statistics=self.freeze_statistics,
            on_step=self.on_step,
        )
        self.steppers.append(made)
        return made

    @contextmanager
    def phase(self, name: str) -> Iterator[None]:
        """Count the time within the block under ``name`` (``precompute``, ``unlearn``) and under no other."""
        self._charge()
        self._phases.append(name)
        try:
            yield
        finally:
            self._charge()
            self._phases.pop()

    def _charge(self) -> None:
        """Give the time since the last change of phase to the phase that was open."""
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)
        now = time.perf_counter()
        if self._phases:
            name = self._phases[-1]
            self.seconds[name] = self.seconds.get(name, 0.0) + now - self._since
        self._since = now

    def _weight_decay(self, rule: Rule) -> float:
        """The weight decay of a rule; it is noted where it is that of the original, and not the usual one."""
        found = weight_decay_of(rule, self.original_rule)
        if rule.weight_decay is None and found != WEIGHT_DECAY:
            self.notes["weight_decay"] = found
        return found

    def _decayed(self, rule: Rule) -> Rule:
        return replace(rule, weight_decay=self._weight_decay(rule))

    def l2_coefficient(self, given: float | None) -> float:
        """The coefficient of ``l2/2 ||w||^2`` in the loss of training: what is given, or known of the original.

        Raises:
            RequestError: Neither is known.
        """
        if given is not None:
            return given
        if self.original_rule is not None and self.original_rule.optimizer == "sgd":
            return self._weight_decay(Rule())
        raise RequestError(
            "say the coefficient of the L2 term in the loss that the model was trained on: l2=..., the weight_decay of "
            "SGD, or l2=0 if there was none"
        )

    def history(self) -> list[dict[str, object]]:
        """One record per step of every stepper: step, learning rates, losses by role."""
        return [record for stepper in self.steppers for record in stepper.history()]

    def steps(self) -> dict[str, int]:
        """How many objectives of each role were stepped on."""
        taken: Counter[str] = Counter()
        for stepper in self.steppers:
            taken.update(stepper.roles())
        return dict(taken)

    @contextmanager
    def seeded(self) -> Iterator[None]:
        """Within the block, initialisers and dropout draw from this run's generator."""
        with randomness.seeded(self.generator):
            yield
