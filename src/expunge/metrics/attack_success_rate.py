"""Attack success rate (ASR)."""

from dataclasses import dataclass

from expunge.core.registry import metric
from expunge.evaluation.predictions import Subject
from expunge.training.context import Context


@dataclass(frozen=True)
class AttackSuccessRateConfig:
    """There is nothing to choose."""


@metric(better="lower")
def measure(subject: Subject, config: AttackSuccessRateConfig, context: Context) -> dict[str, float]:
    """Attack success rate, ASR: percent of triggered test images of other classes that are taken for the target class.

    Only where the training data had a backdoor.
    """
    if not len(subject.splits.get("triggered", ())):
        return {}
    return {"attack_success_rate": subject.predictions("triggered").accuracy()}
