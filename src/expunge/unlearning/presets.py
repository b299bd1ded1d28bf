"""Presets, and the text form, options and labels of unlearnings."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from functools import cache
from types import MappingProxyType
from typing import TypeVar

from expunge.core import config, registry
from expunge.core.errors import RequestError
from expunge.core.text import Text, assignments, opened
from expunge.training.rules import PerRole, Rule
from expunge.unlearning.adapters import LowRank
from expunge.unlearning.unlearn import Unlearning
from expunge.unlearning.update_masks import UpdateMask


@dataclass(frozen=True)
class Preset:
    """A named composition of a method, an update mask and adapters."""

    summary: str
    """A description for lists."""
    method: str
    """The method in its text form."""
    update_mask: UpdateMask | None = None
    """Its update mask."""
    adapters: LowRank | None = None
    """Its low-rank adapters."""
    aliases: tuple[str, ...] = ()
    """Names that other code bases give to it."""
    paper: Mapping[str, object] = field(default_factory=dict[str, object])
    """Options that the paper or its code has at other values, besides those of the method."""


PRESETS: Mapping[str, Preset] = MappingProxyType(
    {
        "salun": Preset(
            "random labels on the most salient half of the weights (Fan et al. 2024, arXiv:2310.12508)",
            "random_label",
            UpdateMask("gradient", fraction=0.5),
            aliases=("SalUn",),
            paper={"lr": 0.013},
        ),
        "sfron": Preset(
            "weighted ascent on the weights that matter more to forget than to retain (Huang et al. 2024, "
            "arXiv:2409.19732)",
            "sfron:steps=1500",
            UpdateMask("ratio", threshold=1.0, roles="forget"),
        ),
        "sharp_minmax": Preset(
            "NegGrad+ that flattens the loss of retain on one part of the weights and sharpens that of forget on "
            "the other (Tang & Khanna 2025, arXiv:2506.13715)",
            "neggrad_plus:forget.rho=0.1,forget.sharpness=max,retain.rho=0.1",
            UpdateMask("gradient", fraction=0.1, roles="split"),
        ),
        "ga_l1": Preset(
            "gradient ascent with an l1 norm (code of Jia et al. 2023, arXiv:2304.04934)",
            "gradient_ascent:l1=1e-4",
            aliases=("GA_l1",),
        ),
        "rl_og": Preset(
            "random labels with both sets shuffled together (code of Tang & Khanna 2025)",
            "random_label:order=mixed",
            aliases=("RL_og",),
        ),
        "rl_proximal": Preset(
            "random labels with a proximal step to the original weights, SalUn-soft (Fan et al. 2024)",
            "random_label:order=mixed,proximal=0.5",
            aliases=("RL_proximal", "RL_pro"),
        ),
        "retrain_ls": Preset("retraining with smoothed labels", "retrain:label_smoothing=0.1"),
        "retrain_sam": Preset("retraining by adaptive sharpness-aware steps", "retrain:rho=2.0,adaptive=true"),
        "fisher": Preset(
            "Fisher forgetting with the labels of the data (Golatkar et al. 2020)", "fisher_forgetting:labels=true"
        ),
    }
)
"""Published methods that are compositions, by name."""


def canonical(name: str) -> str:
    """Return the name of a method or preset, given a name or alias.

    Raises:
        RequestError: There is none; the message suggests similar names.
    """
    wanted = name.replace("-", "_")
    for word, preset in PRESETS.items():
        if wanted == word or wanted in preset.aliases:
            return word
    try:
        return registry.find("methods", name).name
    except RequestError:
        known = [*registry.plugins("methods"), *PRESETS]
        raise RequestError(registry.unknown("method", name, known)) from None


def named(text: str, values: Mapping[str, object] | None = None, base: Unlearning | None = None) -> Unlearning:
    """Return the unlearning written ``NAME[:key=value,...]``, with the name of a method or preset.

    Options are those of the method, of its rule (``lr``; ``forget.lr`` for one role), of an update mask
    (``mask.fraction``) and of low-rank adapters (``adapters.rank``). With ``defaults=paper``, options that are not
    given have the values of the publication or its code. ``values`` are further options, which take precedence;
    ``base`` is what they change, by default the method with its defaults.

    Raises:
        RequestError: A name or value is wrong.
    """
    name, _, rest = text.partition(":")
    name = canonical(name)
    given = _optimizers(assignments(rest, (), name) | dict(values or {}), name)
    preset = PRESETS.get(name, Preset("", name))
    plain, _, rest = preset.method.partition(":")
    method = _with_options(config.parse("methods", plain), assignments(rest, (), plain), plain)
    mark = registry.of_config("methods", method).mark
    start = base or Unlearning(method, preset.update_mask, preset.adapters, mark.reach, mark.extend)
    chosen = str(given.pop("defaults", "own"))
    if chosen not in ("own", "paper"):
        raise RequestError(f"{name}: {registry.unknown('value of defaults', chosen, ('own', 'paper'))}")
    if chosen == "paper":
        paper = of_paper(name)
        given = (
            {"reach": Text("none")} | {k: v for k, v in paper.items() if k != "epochs" or "steps" not in given} | given
        )
    mask = _chosen(given, ("mask", "update_mask"), start.update_mask, UpdateMask, name)
    adapters = _chosen(given, ("adapters",), start.adapters, LowRank, name)
    further = {key: given.pop(key) for key in ("reach", "extend") if key in given}
    made = Unlearning(_with_options(start.method, given, name), mask, adapters, start.reach, start.extend)
    return config.override(Unlearning, config.to_data(made, runs=True), further, name) if further else made


def of_paper(name: str) -> dict[str, object]:
    """Return the options of a method or preset that differ from its defaults in the publication or its code."""
    preset = PRESETS.get(name, Preset("", name))
    plain, _, rest = preset.method.partition(":")
    own = assignments(rest, (), plain)
    of_method = registry.find("methods", plain).mark.paper
    return {key: value for key, value in of_method.items() if key not in own} | dict(preset.paper)


_KINDS: Mapping[str, Mapping[str, object]] = {
    "a": {"optimizer": "adamw", "weight_decay": 0.05},
    "s": {"optimizer": "sgd"},
    "l": {"optimizer": "lion", "weight_decay": 0.01},
}
_PAIRS = {
    forget + retain: {
        f"{role}.{key}": value
        for role, kind in (("forget", forget), ("retain", retain))
        for key, value in _KINDS[kind].items()
    }
    for forget, retain in ("as", "aa", "sa", "ss", "ls", "ll", "sl")
}


OPTIMIZERS: Mapping[str, Mapping[str, object]] = MappingProxyType(
    {
        "sgd": {"optimizer": "sgd"},
        "adam": {"optimizer": "adamw", "weight_decay": 0.05},
        "dual": _PAIRS["as"],
        **{f"dual_{pair}": options for pair, options in _PAIRS.items()},
        "dual_share": {**_PAIRS["as"], "share": "first"},
        "dual_aa_m": {**_PAIRS["aa"], "share": "second"},
        "dual_aa_v": {**_PAIRS["aa"], "share": "first"},
        "dual_aa_8bit": {f"{role}.optimizer": "adamw8bit" for role in ("forget", "retain")}
        | {f"{role}.weight_decay": 0.05 for role in ("forget", "retain")},
    }
)
"""The optimizers of forget and retain steps by the names of DualOptim's code (``--optim``); learning rates stay."""


def _optimizers(given: dict[str, object], name: str) -> dict[str, object]:
    """The options with those that ``optim`` stands for, which others override."""
    if "optim" not in given:
        return given
    word = str(given.pop("optim"))
    if word not in OPTIMIZERS:
        raise RequestError(f"{name}: {registry.unknown('value of optim', word, OPTIMIZERS)}")
    return dict(OPTIMIZERS[word]) | given


Part = TypeVar("Part", UpdateMask, LowRank)


def _chosen(
    given: dict[str, object], words: tuple[str, ...], default: Part | None, kind: type[Part], name: str
) -> Part | None:
    """Take the options of a part of an unlearning (its ``words``) out of ``given``, and return the part.

    ``mask.fraction=0.3`` changes the default, ``mask=(fraction=0.3,layers=fc.*)`` replaces it, ``mask=none`` removes
    the part, and in Python it may be a value.
    """
    for word in words:
        if word in given:
            value = None if given[word] in ("none", "false") else given[word]
            del given[word]
            if isinstance(value, str) and opened(value) != value:
                what = f"{name}: the {word}"
                value = config.override(kind, {}, assignments(opened(value), config.field_names(kind), what), what)
            if not (value is None or isinstance(value, kind)):
                raise RequestError(f"{name}: {word} must be none or a {kind.__name__}; its options are {word}.KEY")
            default = value
        options = {key.partition(".")[2]: given.pop(key) for key in list(given) if key.startswith(f"{word}.")}
        if options:
            data = config.to_data(default) if default else {}
            default = config.override(kind, data, options, f"{name}: the {word.replace('_', ' ')}")
    return default


def check_roles(method: object, options: Iterable[str]) -> None:
    """Raise a RequestError if an option belongs to a role that the method takes no steps for."""
    plugin = registry.of_config("methods", method)
    for key in options:
        role, dot, _ = key.removeprefix("rule.").partition(".")
        if dot and role in ("forget", "retain") and role not in plugin.mark.roles:
            raise RequestError(f"{plugin.name} takes no {role} steps: {key} has no effect")


def _with_options(method: object, given: Mapping[str, object], name: str) -> object:
    """Set options of a method; those of one role are set last, and give each role its own rule."""
    of_role = {key: value for key, value in given.items() if _by_role(key.removeprefix("rule."))}
    of_both = {key: value for key, value in given.items() if key not in of_role}
    if isinstance(getattr(method, "rule", None), PerRole):
        of_both = {role: value for key, value in of_both.items() for role in _for_each_role(method, key)}
    method = config.override(type(method), config.to_data(method), of_both, name)
    if not of_role:
        return method
    check_roles(method, of_role)
    method = with_roles(method, {key.removeprefix("rule.") for key in of_role})
    return config.override(type(method), config.to_data(method), of_role, name)


def with_roles(method: object, options: Iterable[str]) -> object:
    """Return the method with a rule for each role if one of these options needs it.

    If an optimizer is chosen for one role, the roles share no moments, unless ``share`` is given.
    """
    keys = list(options)
    if any(_by_role(key) for key in keys):
        method = per_role(method)
    rule = getattr(method, "rule", None)
    chosen = any(key in ("forget.optimizer", "retain.optimizer") for key in keys) and "share" not in keys
    return replace(method, rule=replace(rule, share="nothing")) if chosen and isinstance(rule, PerRole) else method  # pyright: ignore


ROLES = ("forget.", "retain.")


def _by_role(key: str) -> bool:
    """Whether an option needs a rule for each role."""
    return key.startswith(ROLES) or key == "share"


def _for_each_role(method: object, key: str) -> list[str]:
    """The options of both roles that ``lr`` or ``rule.lr`` means for a method with a rule per role."""
    field = key.removeprefix("rule.")
    its_own = key in config.field_names(type(method)) or field in config.field_names(PerRole)
    return [key] if its_own or field not in config.field_names(Rule) else [f"rule.{role}{field}" for role in ROLES]


def rules(given: Unlearning) -> dict[str, Rule]:
    """Return the update rules of a method by role; a rule for all roles has an empty name."""
    rule = getattr(given.method, "rule", None)
    if isinstance(rule, PerRole):
        return {"forget": rule.forget, "retain": rule.retain}
    return {"": rule} if isinstance(rule, Rule) else {}


def option(given: Unlearning, key: str) -> object:
    """Return the value of an option, named as for :func:`named`; None if it is not set."""
    place: object = given.method
    for prefix, part in (("mask.", given.update_mask), ("adapters.", given.adapters)):
        if key.startswith(prefix):
            place, key = part, key.removeprefix(prefix)
    if place is given.method and key.partition(".")[0] not in config.field_names(type(given.method)):
        place = getattr(given.method, "rule", None)
    for name in key.split("."):
        place = getattr(place, name, None)
    return place


def search_space(name: str) -> dict[str, tuple[float, float]]:
    """Return the options of a method or preset that ``expunge tune`` searches, each with its range."""
    name = canonical(name)
    method = PRESETS.get(name, Preset("", name)).method
    return dict(registry.find("methods", method.partition(":")[0]).mark.search)


def per_role(method: object) -> object:
    """Return the configuration with its rule copied to each role, so that they can be changed separately."""
    rule = getattr(method, "rule", None)
    return replace(method, rule=PerRole(forget=rule, retain=rule)) if isinstance(rule, Rule) else method  # pyright: ignore


def label(unlearning: Unlearning) -> str:
    """Return the label of an unlearning in tables: the name of its preset if it matches one, else of its method.

    It matches if it has the method of the preset, and an update mask of the same kind of score for the same roles.
    """
    return _words().get(_shape(unlearning), registry.of_config("methods", unlearning.method).name)


@cache
def _words() -> dict[tuple[object, ...], str]:
    """The name of each preset by its shape."""
    return {_shape(named(word)): word for word, preset in PRESETS.items() if preset.update_mask is not None}


def _shape(unlearning: Unlearning) -> tuple[object, ...]:
    """The properties that identify a preset: method, score and roles of the mask, and sharpness by role."""
    mask, sharp = unlearning.update_mask, {role: r.sharpness for role, r in rules(unlearning).items() if r.rho > 0}
    ranked = None
    if mask is not None and not mask.layers and mask.fraction != 1:
        ranked = ("saliency" if mask.score in ("gradient", "difference") else mask.score, mask.roles)
    split = ranked is not None and ranked[1] == "split"
    return registry.of_config("methods", unlearning.method).name, ranked, tuple(sharp.items()) if split else ()
