"""Every name of a method, optimizer, model or pruner that the originals' READMEs and scripts use is known."""

import pytest

from expunge.core import config, registry
from expunge.core.errors import RequestError
from expunge.training.rules import PerRole, Rule
from expunge.unlearning import presets

METHODS = {
    "raw": "original",
    "retrain": "retrain",
    "retrain_ls": "retrain:label_smoothing=0.1",
    "retrain_sam": "retrain:rho=2.0,adaptive=true",
    "FT": "finetune",
    "FT_l1": "l1_sparse",
    "FT_prune": "l1_sparse",
    "FT_prune_bi": "ao_sparse",
    "GA": "gradient_ascent",
    "GA_l1": "gradient_ascent:l1=1e-4",
    "NG": "neggrad_plus",
    "RL": "random_label",
    "RL_og": "random_label:order=mixed",
    "RL_proximal": "random_label:order=mixed,proximal=0.5",
    "SalUn": "salun",
    "SCRUB": "scrub",
    "SFRon": "sfron",
    "fisher": "fisher_forgetting:labels=true",
    "fisher_new": "fisher_forgetting:labels=model",
    "wfisher": "influence",
    "boundary_shrink": "boundary_shrink",
    "boundary_expanding": "boundary_expanding",
    "Gan": "adversarial",
}


@pytest.mark.parametrize(("name", "same"), METHODS.items())
def test_methods(name: str, same: str) -> None:
    assert presets.named(name) == presets.named(same)
    assert presets.label(presets.named(name)) in {presets.canonical(same.partition(":")[0])}


OPTIMIZERS = {
    "dual": ("adamw", "sgd", "nothing"),
    "dual_as": ("adamw", "sgd", "nothing"),
    "dual_aa": ("adamw", "adamw", "nothing"),
    "dual_sa": ("sgd", "adamw", "nothing"),
    "dual_ss": ("sgd", "sgd", "nothing"),
    "dual_ls": ("lion", "sgd", "nothing"),
    "dual_ll": ("lion", "lion", "nothing"),
    "dual_sl": ("sgd", "lion", "nothing"),
    "dual_share": ("adamw", "sgd", "first"),
    "dual_aa_m": ("adamw", "adamw", "second"),
    "dual_aa_v": ("adamw", "adamw", "first"),
    "dual_aa_8bit": ("adamw8bit", "adamw8bit", "nothing"),
}
DECAY = {"adamw": 0.05, "adamw8bit": 0.05, "lion": 0.01, "sgd": None}


@pytest.mark.parametrize("method", ["sfron", "random_label", "scrub"])
@pytest.mark.parametrize(("name", "expected"), OPTIMIZERS.items())
def test_optimizers(method: str, name: str, expected: tuple[str, str, str]) -> None:
    rule = getattr(presets.named(f"{method}:optim={name},forget.lr=0.5").method, "rule")  # noqa: B009
    assert isinstance(rule, PerRole)
    assert (rule.forget.optimizer, rule.retain.optimizer, rule.share) == expected
    assert (rule.forget.weight_decay, rule.retain.weight_decay) == (DECAY[expected[0]], DECAY[expected[1]])
    assert rule.forget.lr == 0.5


def test_one_optimizer_and_options_that_override() -> None:
    adam = getattr(presets.named("scrub:optim=adam").method, "rule")  # noqa: B009
    assert isinstance(adam, Rule)
    assert (adam.optimizer, adam.weight_decay) == ("adamw", 0.05)
    rule = getattr(presets.named("scrub:optim=dual,forget.weight_decay=0").method, "rule")  # noqa: B009
    assert rule.forget.weight_decay == 0
    with pytest.raises(RequestError, match="no value of optim 'duel'; did you mean dual"):
        presets.named("scrub:optim=duel")
    with pytest.raises(RequestError, match="takes no forget steps"):
        presets.named("finetune:optim=dual")


@pytest.mark.parametrize(
    "name", ["resnet18", "resnet20s", "resnet44s", "resnet56s", "resnet50", "vgg16_bn", "vgg16_bn_lth"]
)
def test_models(name: str) -> None:
    assert registry.of_config("models", config.parse("models", name)).name == name.rstrip("s")


@pytest.mark.parametrize(
    ("name", "found"), [("omp", "magnitude"), ("imp", "iterative_magnitude"), ("synflow", "synflow")]
)
def test_pruners(name: str, found: str) -> None:
    assert registry.find("pruning", name).name == found
