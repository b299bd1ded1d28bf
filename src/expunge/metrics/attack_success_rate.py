"""Attack success rate (ASR)."""

from expunge.core.registry import Measure, metric
from expunge.evaluation.predictions import Subject
from expunge.training.context import Context


@metric(
    Measure(
        "attack success rate",
        "lower",
        short="ASR",
        unit="%",
        range=(0, 100),
        meaning="Share of the test images of other classes that the model takes for the attacker's target once they "
        "bear the attacker's trigger.",
        column=50,
        decimals=1,
    )
)
def measure(subject: Subject, context: Context) -> dict[str, float]:
    """Attack success rate, ASR: percent of triggered test images of other classes that are predicted as the target.

    Only where the training data had a backdoor.
    """
    if not len(subject.splits.get("triggered", ())):
        return {}
    return {"attack_success_rate": subject.predictions("triggered").accuracy()}
