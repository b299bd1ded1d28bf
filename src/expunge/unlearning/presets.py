"""Names of unlearnings: presets, the text form, options by name, the label in tables."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from functools import cache
from types import MappingProxyType
from typing import TypeVar

from expunge.core import config, registry
from expunge.core.errors import RequestError
from expunge.core.text import assignments
from expunge.training.rules import PerRole, Rule
from expunge.unlearning.adapters import LowRank
from expunge.unlearning.unlearn import Unlearning
from expunge.unlearning.update_masks import UpdateMask


@dataclass(frozen=True)
class Preset:
    """A composition that the field knows by one word."""

    summary: str
    """What it is, for lists."""
    method: str
    """The method in its text form."""
    update_mask: UpdateMask | None = None
    """Its update mask."""
    adapters: LowRank | None = None
    """Its low-rank adapters."""
    search: Mapping[str, tuple[float, float]] = field(default_factory=dict[str, tuple[float, float]])
    """Options to search beside or in place of those of the method, as for :func:`registry.method`."""
    aliases: tuple[str, ...] = ()
    """Names that other code bases give to it."""


PRESETS: Mapping[str, Preset] = MappingProxyType(
    {
        "salun": Preset(
            "random labels on the most salient half of the weights (Fan et al. 2024, arXiv:2310.12508)",
            "random_label:rule.lr=0.013",
            UpdateMask("gradient", fraction=0.5),
            aliases=("SalUn",),
        ),
        "sfron": Preset(
            "weighted ascent on the weights that matter more to forget than to retain (Huang et al. 2024, "
            "arXiv:2409.19732)",
            "sfron",
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
"""Compositions that the field knows by one word."""


def canonical(name: str) -> str:
    """The name of a method or preset, without aliases.

    Raises:
        RequestError: There is none of that name; the message gives the nearest.
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
    """The unlearning written ``NAME[:key=value,...]``, where the name is that of a method or a preset.

    Options are those of the method, those of its rule (``lr``; ``forget.lr`` for one role), those of an update
    mask as ``mask.fraction``, and those of low-rank adapters as ``adapters.rank``. ``values`` are further options,
    which win; ``base`` is what they change, by default the method with its defaults.

    Raises:
        RequestError: A name or value is wrong.
    """
    name, _, rest = text.partition(":")
    name = canonical(name)
    given = _optimizers(assignments(rest, (), name) | dict(values or {}), name)
    preset = PRESETS.get(name, Preset("", name))
    start = base or Unlearning(_parsed(preset.method), preset.update_mask, preset.adapters)
    mask = _chosen(given, ("mask", "update_mask"), start.update_mask, UpdateMask, name)
    adapters = _chosen(given, ("adapters",), start.adapters, LowRank, name)
    return Unlearning(_with_options(start.method, given, name), mask, adapters)


def _parsed(text: str) -> object:
    """The configuration of the method in a preset."""
    name, _, rest = text.partition(":")
    return _with_options(config.parse("methods", name), assignments(rest, (), name), name)


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
    """The part of an unlearning that goes by these words, whose options are taken out of ``given``.

    ``mask.fraction=0.3`` changes the default, ``mask=none`` leaves the part out, and from Python it may be a value.
    """
    for word in words:
        if word in given:
            value = None if given[word] in ("none", "false") else given[word]
            del given[word]
            if not (value is None or isinstance(value, kind)):
                raise RequestError(f"{name}: {word} must be none or a {kind.__name__}; its options are {word}.KEY")
            default = value
        options = {key.partition(".")[2]: given.pop(key) for key in list(given) if key.startswith(f"{word}.")}
        if options:
            data = config.to_data(default) if default else {}
            for one, other in (("fraction", "threshold"), ("threshold", "fraction")):
                if one in options and other not in options:  # one takes the place of the other
                    data.pop(other, None)
            default = config.override(kind, data, options, f"{name}: the {word.replace('_', ' ')}")
    return default


def check_roles(method: object, options: Iterable[str]) -> None:
    """Raise a RequestError if an option is of a role that the method never steps on: it would change nothing."""
    plugin = registry.of_config("methods", method)
    for key in options:
        role, dot, _ = key.removeprefix("rule.").partition(".")
        if dot and role in ("forget", "retain") and role not in plugin.mark.roles:
            raise RequestError(f"{plugin.name} takes no {role} steps: {key} would change nothing")


def _with_options(method: object, given: Mapping[str, object], name: str) -> object:
    """The method with these options; those of one role come last, and give each role a rule of its own."""
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
    """The method with a rule for each role if one of these options asks for it.

    An optimizer that is chosen for one role keeps its moments to itself, unless ``share`` says otherwise.
    """
    keys = list(options)
    if any(_by_role(key) for key in keys):
        method = per_role(method)
    rule = getattr(method, "rule", None)
    chosen = any(key in ("forget.optimizer", "retain.optimizer") for key in keys) and "share" not in keys
    return replace(method, rule=replace(rule, share="nothing")) if chosen and isinstance(rule, PerRole) else method  # pyright: ignore


ROLES = ("forget.", "retain.")


def _by_role(key: str) -> bool:
    """Whether an option says something of rules of their own for the roles."""
    return key.startswith(ROLES) or key == "share"


def _for_each_role(method: object, key: str) -> list[str]:
    """The option of both roles that ``lr`` or ``rule.lr`` means for a method with a rule per role."""
    field = key.removeprefix("rule.")
    its_own = key in config.field_names(type(method)) or field in config.field_names(PerRole)
    return [key] if its_own or field not in config.field_names(Rule) else [f"rule.{role}{field}" for role in ROLES]


def rules(given: Unlearning) -> dict[str, Rule]:
    """The update rules of a method by role; one for all has the empty name."""
    rule = getattr(given.method, "rule", None)
    if isinstance(rule, PerRole):
        return {"forget": rule.forget, "retain": rule.retain}
    return {"": rule} if isinstance(rule, Rule) else {}


def option(given: Unlearning, key: str) -> object:
    """The value of an option by the name that :func:`named` takes; None where it is not set."""
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
    """The options of a method or preset that ``expunge tune`` searches, each with its least and largest value."""
    name = canonical(name)
    preset = PRESETS.get(name, Preset("", name))
    plugin = registry.find("methods", preset.method.partition(":")[0])
    return dict(preset.search or plugin.mark.search)


def per_role(method: object) -> object:
    """The same configuration with its one rule given to each role, so that the two can be changed apart."""
    rule = getattr(method, "rule", None)
    return replace(method, rule=PerRole(forget=rule, retain=rule)) if isinstance(rule, Rule) else method  # pyright: ignore


def label(unlearning: Unlearning) -> str:
    """The one word for an unlearning in tables: its preset if it has the shape of one, else its method.

    The shape of a preset is its method, with an update mask by a score of the same sort for the same roles.
    """
    return _words().get(_shape(unlearning), registry.of_config("methods", unlearning.method).name)


@cache
def _words() -> dict[tuple[object, ...], str]:
    """The word of each preset by its shape."""
    return {_shape(named(word)): word for word, preset in PRESETS.items() if preset.update_mask is not None}


def _shape(unlearning: Unlearning) -> tuple[object, ...]:
    """What an unlearning is known by: its method, what its mask ranks by and whom it binds, and sharp steps by role."""
    mask, sharp = unlearning.update_mask, {role: r.sharpness for role, r in rules(unlearning).items() if r.rho > 0}
    ranked = None
    if mask is not None and not mask.layers and mask.fraction != 1:
        ranked = ("saliency" if mask.score in ("gradient", "difference") else mask.score, mask.roles)
    split = ranked is not None and ranked[1] == "split"
    return registry.of_config("methods", unlearning.method).name, ranked, tuple(sharp.items()) if split else ()
