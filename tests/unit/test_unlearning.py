"""What every unlearning is checked for, whatever the method."""

import pytest

from expunge.core.errors import RunError
from expunge.unlearning import presets
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


def test_doing_nothing_does_nothing() -> None:
    assert problems.same(problems.unlearned("original"), problems.model())


@pytest.mark.parametrize(
    ("alias", "name"),
    [
        ("FT_prune", "l1_sparse"),
        ("FT_l1", "l1_sparse"),
        ("BS", "boundary_shrink"),
        ("BE", "boundary_expanding"),
        ("RL", "random_label"),
        ("GA", "gradient_ascent"),
        ("BadT", "bad_teacher"),
        ("NU", "newton_step"),
        ("IJ", "infinitesimal_jackknife"),
        ("fisher", "fisher_forgetting"),
        ("fisher_new", "fisher_forgetting"),
        ("FF", "fisher_forgetting"),
        ("IU", "influence"),
        ("wfisher", "influence"),
        ("Gan", "adversarial"),
        ("DAU", "adversarial"),
        ("SFRon", "sfron"),
    ],
)
def test_names_of_other_code_bases(alias: str, name: str) -> None:
    assert presets.canonical(alias) == presets.canonical(name) == name
