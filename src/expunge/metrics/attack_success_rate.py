"""Attack success rate (ASR)."""

from expunge.context import Context
from expunge.evaluation import Subject
from expunge.registry import metric


@metric(better="lower")
def measure(subject: Subject, context: Context) -> dict[str, float]:
    """Attack success rate, ASR: percent of triggered test images of other classes that are taken for the target class.

    Only where the training data had a backdoor.
    """
    if not len(subject.splits.get("triggered", ())):
        return {}
    return {"attack_success_rate": subject.predictions("triggered").accuracy()}
