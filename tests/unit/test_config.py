"""Configurations to JSON and back, digests, text forms and their error messages."""

import copy
import dataclasses
import hashlib
import json
import pickle
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pytest

from expunge.core import config, registry
from expunge.core.errors import RequestError
from expunge.data.forget_sets.class_ import ClassForget
from expunge.data.forget_sets.ids import ListedForget
from expunge.data.forget_sets.random import RandomForget
from expunge.data.split_data import DataConfig
from expunge.methods.finetune import FinetuneConfig
from expunge.methods.scrub import ScrubConfig
from expunge.runs.evaluate import EvaluateConfig
from expunge.runs.train import TrainConfig
from expunge.runs.unlearn import UnlearnConfig
from expunge.training.rules import PerRole, Rule
from expunge.unlearning import presets
from expunge.unlearning.adapters import LowRank
from expunge.unlearning.unlearn import Unlearning
from expunge.unlearning.update_masks import UpdateMask
from tests.contracts.examples import example


def everything() -> EvaluateConfig:
    data = DataConfig(config.parse("data", "digits"), limit=100)
    train = TrainConfig(data, config.parse("models", "mlp:hidden=8+4"))
    dual = ScrubConfig(rule=PerRole(Rule(optimizer="adamw"), Rule(lr=0.5, milestones=(0.1,))))
    adapters, mask = LowRank(2), UpdateMask("ratio", threshold=0.5, layers=("a", "b.*"), roles="split")
    subject = UnlearnConfig(train, ListedForget((3, 1)), Unlearning(dual, mask, adapters))
    reference = UnlearnConfig(train, ListedForget((3, 1)), presets.named("retrain:epochs=2"))
    metrics = (config.parse("metrics", "membership_svc:exact=true"), config.parse("metrics", "tow"))
    return EvaluateConfig(subject, reference, metrics)


def test_nested_configurations_survive_json() -> None:
    wanted = everything()
    known = {config.run_id(each): each for each in config.ordered([wanted])}
    text = json.dumps(config.run_to_data(wanted))
    assert "relu" not in text
    assert text.count('"digest"') == 2, "the runs that it refers to are named, not repeated"
    assert config.run_from_data(json.loads(text), known) == wanted
    subject = json.loads(json.dumps(config.run_to_data(wanted.subject)))
    assert config.run_from_data(subject, known) == wanted.subject
    other = config.run_id(wanted.subject.original)
    with pytest.raises(RequestError, match="another configuration than the one referred to"):
        config.run_from_data(subject, {other: replace(wanted.subject.original, seed=7)})


@pytest.mark.parametrize("forget", [RandomForget(count=3), ClassForget((1, 2)), ListedForget((5,))])
def test_plug_ins_are_told_apart_by_their_name(forget: object) -> None:
    run = UnlearnConfig(TrainConfig(DataConfig("digits"), "mlp"), forget, presets.named("finetune"))
    data = config.to_data(run)["forget"]
    assert config.plugin_from_data("forget_sets", data) == forget
    assert config.plugin_from_data("forget_sets", config.text("forget_sets", forget)) == forget


def test_digest_depends_on_values_alone() -> None:
    first = config.run_digest(everything())
    assert first == config.run_digest(everything())
    data = config.run_to_data(everything())
    assert config.digest_data(json.loads(json.dumps(data, sort_keys=True))) == config.digest_data(data)
    assert config.digest(ScrubConfig(epochs=1)) != config.digest(ScrubConfig(epochs=2))
    # The digest names folders that people keep: a change here orphans their runs.
    canonical = b'{"data":{"a":[1,2.5,null,true],"b":"x"},"format":1}'
    assert config.digest_data({"b": "x", "a": [1, 2.5, None, True]}) == hashlib.sha256(canonical).hexdigest()


def test_every_plugin_configuration_survives_json_and_text() -> None:
    for kind in registry.KINDS.keys() - {"runs"}:  # these need a run before them
        for plugin in registry.plugins(kind).values():
            value = example(plugin)
            assert config.from_data(plugin.config, config.to_data(value)) == value
            assert config.parse(kind, config.text(kind, value)) == value
            assert registry.of_config(kind, value) is plugin


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("scrubb", "did you mean scrub"),
        ("nothing_like_it_at_all", "there are: adversarial"),
        ("scrub:epoch=3", "did you mean epochs"),
        ("scrub:epochs=1.5", "expected int, got '1.5'"),
        ("scrub:epochs=many", "expected int, got 'many'"),
        ("scrub:alpha=-1", "alpha must be a finite number, at least 0"),
        ("scrub:lr=-1", "lr must be a finite number"),
        ("scrub:3", "should be key=value"),
        ("scrub:optimizer=adam", "expected one of sgd, adamw, adamw8bit, lion"),
        ("salun:mask.fraction=2", "fraction must be in"),
        ("salun:mask.fractoin=1", "did you mean fraction"),
        ("finetune:epochs.x=3", "epochs has no options of its own"),
        ("finetune:lr.x=3", "lr has no options of its own"),
        ("salun:mask.fraction.x=3", "fraction has no options of its own"),
        ("scrub:temperature=1e999", "expected a finite number, got inf"),
        ("scrub:share=firts", "expected one of nothing, first"),
        ("scrub:forget.lr=0.1,share=second", "cannot share=second"),
        ("finetune:epochs=-1", "epochs must be a finite number, at least 0"),
        ("neggrad_plus:alpha=1.2", r"alpha must be in \[0, 1\], got 1.2"),
    ],
)
def test_bad_texts_say_the_cure(text: str, message: str) -> None:
    with pytest.raises(RequestError, match=message):
        presets.named(text)


def test_texts_reach_fields_rules_roles_and_masks() -> None:
    plain = ScrubConfig().rule
    assert isinstance(plain, Rule)
    fast, faster = (dataclasses.replace(plain, lr=lr) for lr in (0.2, 0.3))
    assert presets.named("SCRUB:epochs=3,lr=0.2,temperature=2").method == ScrubConfig(
        epochs=3, temperature=2.0, rule=fast
    )
    dual = presets.named("scrub:forget.optimizer=lion,retain.lr=0.3").method
    assert dual == ScrubConfig(rule=PerRole(dataclasses.replace(plain, optimizer="lion"), faster))
    both = presets.named("scrub:lr=0.3,forget.lr=0.1,share=first").method
    assert getattr(both, "rule") == PerRole(dataclasses.replace(plain, lr=0.1), faster, "first")  # noqa: B009 - of no declared type
    assert presets.named("scrub:lr=0.3,forget.lr=0.1") == presets.named("scrub:forget.lr=0.1,lr=0.3")
    dual = presets.named("sfron:forget.optimizer=adamw").method
    assert getattr(dual, "rule").share == "nothing", "moments are shared only when said"  # noqa: B009
    assert presets.named("sfron:mask=none").update_mask is None
    by_share = presets.named("sfron:mask.fraction=0.3").update_mask
    assert by_share is not None
    assert (by_share.fraction, by_share.threshold) == (0.3, None)
    layers = presets.named("finetune:mask.layers=fc+*.bias").update_mask
    assert layers is not None
    assert layers.layers == ("fc", "*.bias")
    one = presets.named("scrub:schedule=multistep,milestones=0.5").method
    assert getattr(one, "rule").milestones == (0.5,)  # noqa: B009
    values = {"rule": Rule(lr=0.25), "update_mask": UpdateMask(fraction=0.1), "adapters": LowRank(2)}
    given = presets.named("finetune", values)
    assert given == Unlearning(FinetuneConfig(rule=Rule(lr=0.25)), UpdateMask(fraction=0.1), LowRank(2))
    assert presets.named("finetune", {"lr": np.float64(0.1)}) == presets.named("finetune:lr=0.1")
    salun = presets.named("salun:mask.fraction=0.25,epochs=1")
    assert salun.update_mask is not None
    assert salun.update_mask.fraction == 0.25
    assert presets.label(salun) == "salun"
    assert presets.named("finetune:mask.fraction=0.1").update_mask is not None


def test_unknown_and_missing_keys_are_refused() -> None:
    with pytest.raises(RequestError, match="there is no option 'lrr'; did you mean lr"):
        config.from_data(Rule, {"lrr": 1})
    with pytest.raises(RequestError, match="missing"):
        config.from_data(PerRole, {"forget": {}})
    with pytest.raises(RequestError, match="expected bool"):
        config.from_data(Rule, {"adaptive": "no"})
    with pytest.raises(RequestError, match="an object with the name of a forget set"):
        config.plugin_from_data("forget_sets", {"kind": "all"})
    with pytest.raises(RequestError, match="kind is one of rule, per_role"):
        config.from_data(FinetuneConfig, {"rule": {"kind": "all"}})


def test_a_class_that_configures_no_plug_in_is_refused() -> None:
    @dataclass(frozen=True)
    class Strange:
        pass

    with pytest.raises(RequestError, match="not the configuration of a method"):
        registry.of_config("methods", Strange())


def test_lists_of_numbers_and_of_words_are_joined_by_a_plus() -> None:
    wanted = config.parse("scores", "trajectory_influence:of=losses,images=train,ids=3+17")
    assert getattr(wanted, "ids") == (3, 17)  # noqa: B009
    masked = presets.named("finetune:mask.layers=0+2").update_mask
    assert masked is not None
    assert masked.layers == ("0", "2")
    with pytest.raises(RequestError, match="expected int, got 'x'"):
        config.parse("scores", "trajectory_influence:ids=3+x")


# plug-ins without options


@pytest.mark.parametrize(("kind", "name"), [("methods", "original"), ("metrics", "tow"), ("data", "digits")])
def test_a_plug_in_without_options_has_an_empty_configuration(kind: str, name: str) -> None:
    value = config.parse(kind, name)
    assert dataclasses.fields(value) == ()  # type: ignore[arg-type]
    assert repr(value) == f"{name.capitalize()}Config()"
    assert config.text(kind, value) == name
    assert config.parse(kind, name) == value
    assert pickle.loads(pickle.dumps(value)) == value == copy.deepcopy(value)
    registry.plugins.cache_clear()
    assert registry.of_config(kind, value).name == name, "one class per function, however often they are looked up"
    with pytest.raises(dataclasses.FrozenInstanceError):
        setattr(value, "lr", 1)  # noqa: B010 - a field that it does not have
    with pytest.raises(RequestError, match="there is no option 'lr'"):
        config.parse(kind, f"{name}:lr=1")


def test_a_plug_in_without_options_is_stored_by_its_name() -> None:
    data = config.to_data(Unlearning(config.parse("methods", "original")))
    assert data["method"] == {"name": "original"}
    assert config.from_data(Unlearning, data).method == config.parse("methods", "original")


@pytest.mark.parametrize("kind", registry.KINDS)
def test_every_kind_of_plug_in_may_leave_out_its_configuration(kind: str) -> None:
    names = registry.KINDS[kind].parameters
    for with_config in (True, False):
        taken = names if with_config else tuple(name for name in names if name != "config")
        scope: dict[str, Any] = {"Own": Own}
        arguments = ", ".join("config: Own" if name == "config" else name for name in taken)
        exec(f"def function({arguments}):\n    return tuple([{', '.join(taken)}])", scope)
        setattr(scope["function"], registry._MARK, registry.Mark(kind))
        plugin = registry._plugin(kind, "two_words", scope["function"])
        assert plugin.call(*names) == taken
        assert plugin.has_options == with_config
        assert plugin.config.__name__ == ("Own" if with_config else "TwoWordsConfig")


@dataclass(frozen=True)
class Own:
    """No options yet."""


def test_other_parameters_are_refused() -> None:
    def measure(subject: object, other: object) -> None: ...

    setattr(measure, registry._MARK, registry.Mark("metrics"))
    with pytest.raises(
        TypeError, match=r"takes \(subject, config, context\), without config .* got \(subject, other\)"
    ):
        registry._plugin("metrics", "mine", measure)


@pytest.mark.parametrize("number", ["1_000", "+5", "٣", "0x10", "5.0"])
def test_numbers_are_written_in_digits(number: str) -> None:
    with pytest.raises(RequestError, match="expected int"):
        presets.named(f"scrub:epochs={number}")


@pytest.mark.parametrize(("text", "value"), [("5e-4", 5e-4), ("10%", 0.1), (".5", 0.5), ("2", 2.0)])
def test_floats_may_have_an_exponent_or_be_a_percentage(text: str, value: float) -> None:
    assert presets.rules(presets.named(f"scrub:lr={text}"))[""].lr == value
