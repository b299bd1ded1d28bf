"""``defaults=paper``: the values of publications and their code, written out."""

import dataclasses

import pytest

from expunge.core import registry
from expunge.core.errors import RequestError
from expunge.unlearning import presets

PLAIN = "lr=0.01,schedule=constant,clip=none"
PUBLISHED = {
    "finetune": f"epochs=10,{PLAIN}",
    "l1_sparse": f"epochs=10,alpha=5e-4,{PLAIN}",
    "gradient_ascent": "epochs=5,lr=1e-4,clip=none",
    "neggrad_plus": f"epochs=5,alpha=0.99,{PLAIN}",
    "random_label": f"epochs=10,{PLAIN}",
    "salun": "epochs=10,lr=0.013,schedule=constant,clip=none",
    "scrub": "epochs=3,maximise_epochs=2,alpha=0.001,forget_batch_size=none,lr=5e-4,schedule=constant,clip=none",
    "sfron": "epochs=5,alpha=25,lr=0.01,forget.clip=7",
    "bad_teacher": "epochs=1,lr=1e-4,retain_fraction=0.3",
    "boundary_shrink": "epochs=10,lr=1e-4,bound=0.1",
    "boundary_expanding": "epochs=10,lr=1e-4",
    "fisher_forgetting": "alpha=1e-8",
    "influence": "alpha=1,damping=1",
}


@pytest.mark.parametrize("name", PUBLISHED)
def test_the_published_values(name: str) -> None:
    assert presets.named(f"{name}:defaults=paper") == presets.named(f"{name}:{PUBLISHED[name]},reach=none")


def test_every_method_with_other_defaults_is_listed() -> None:
    changed = [name for name, plugin in registry.plugins("methods").items() if plugin.mark.paper or plugin.mark.reach]
    assert set(changed) <= set(PUBLISHED)


def test_options_take_precedence_over_the_paper() -> None:
    found = presets.named("scrub:defaults=paper,lr=0.1")
    assert presets.option(found, "lr") == 0.1
    assert presets.option(found, "alpha") == 0.001
    again = presets.named("scrub:defaults=paper,reach=0.5")
    assert dataclasses.replace(again, reach=None) == presets.named("scrub:defaults=paper")


def test_steps_are_in_place_of_the_epochs_of_the_paper() -> None:
    assert presets.option(presets.named("finetune:defaults=paper,steps=7"), "steps") == 7


def test_another_word_is_refused() -> None:
    with pytest.raises(RequestError, match="defaults 'papers'; did you mean paper"):
        presets.named("scrub:defaults=papers")
