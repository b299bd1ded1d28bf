"""What every unlearning is checked for, whatever the method."""

import pytest

from expunge.core.errors import RunError
from tests import problems


@pytest.mark.parametrize(
    ("method", "cure"),
    [
        ("finetune:epochs=1,batch_size=64,lr=1e300", "try a smaller lr, or set clip"),
        ("influence:alpha=1e300", "try more damping or a smaller alpha"),
        ("fisher_forgetting:alpha=1e300", "try more damping or a smaller alpha"),
    ],
)
def test_weights_that_are_not_finite_fail_with_a_cure_that_the_method_has(method: str, cure: str) -> None:
    with pytest.raises(RunError, match=rf"left values in \S+ that are not finite: {cure}"):
        problems.run(method)
