"""Methods are composed of parts: the paper's values of each, what a recipe may change of them, what makes no sense."""

import pytest
import torch

import composing
from fakes import make_recipe
from stepcredit.errors import RecipeError
from stepcredit.methods import names
from stepcredit.parts.likelihood_ratio import Clipped, Hinge, LikelihoodRatio, TrustRegion, Unclipped
from stepcredit.parts.sampling import CPS, DDIM, ODE, DanceSDE, FlowSDE
from stepcredit.recipe.load import load_recipe
from stepcredit.settings.strict import Strict

# The published values, as they stood when a method was one flat class

COMMON = {
    "kernel": "dance_sde",
    "noise_level": 0.3,
    "shared_noise": True,
    "train_last": False,
    "final_state": "x0",
    "window": None,
    "timestep_fraction": 1.0,
    "best_of": None,
    "head": "clipped",
    "clip": 1e-4,
    "profile": "native",
    "place": "loss",
    "preserve": "gradient",
    "form": "power",
    "advantage_clip": 5.0,
    "kl_weight": 0.0,
    "kl_form": "exact",
}
ON_DDIM = {"kernel": "ddim", "noise_level": 1.0, "shared_noise": False}
ON_FLOW_SDE = {"kernel": "flow_sde", "noise_level": 0.7, "shared_noise": False}
ON_CPS = {"kernel": "cps", "noise_level": 0.8, "shared_noise": False}
PUBLISHED = {
    "coca": {**ON_DDIM, "span": 5, "floor": 0.0},
    "dance_grpo": {"mix_of": "advantages"},
    "ddpo": {**ON_DDIM, "scale": "group"},
    "dpok": {**ON_DDIM, "head": "unclipped", "kl_weight": 0.01, "baseline": "group"},
    "flash_grpo": {
        **ON_FLOW_SDE,
        "window": {"size": 1, "first": 0, "end": None, "per": "prompt"},
        "profile": "uniform",
        "preserve": "factor",
        "scale": "group",
    },
    "flow_cps": {**ON_CPS, "profile": "error", "place": "ratio", "preserve": "nothing", "scale": "batch"},
    "flow_dppo": {**ON_FLOW_SDE, "head": "trust_region", "clip": 1e-5, "scale": "batch"},
    "flow_grpo": {**ON_FLOW_SDE, "kl_weight": 0.04, "kl_form": "flow_grpo", "scale": "batch"},
    "gdpo": {},
    "grpo_guard": {
        **ON_FLOW_SDE,
        "profile": "per_length",
        "place": "split",
        "preserve": "nothing",
        "form": "linear",
        "scale": "batch",
    },
    "mgda": {"over": "batch"},
    "moca": {"centred": False},
    "otca": {
        "floor": 0.5,
        "weights": "affine",
        "compared": "latents",
        "centred": False,
        "recentred": False,
        "objective_floor": 0.0,
        "step_mix": False,
    },
    "pcpo": {
        "mix_of": "advantages",
        "head": "hinge",
        "profile": "step_length",
        "place": "ratio",
        "form": "matching",
    },
    "tcd": {"floor": 0.5, "weights": "affine", "compared": "latents"},
    "tempflow_grpo": {**ON_FLOW_SDE, "profile": "noise", "preserve": "factor", "scale": "group"},
}
MEANINGLESS = {
    "cps": {"train_last", "final_state"},  # a sampler that ends without noise has no choice at its end
    "ddim": {"train_last", "final_state"},
    "unclipped": {"clip"},
}
"""What a flat class had and nothing read; such a key has no place in the composed one."""


def flat(method):
    """All settings of a composed method under the names that they had in a flat one."""
    settings = method.model_dump()
    name = settings.pop("type")
    sampler = settings.pop("sampler")
    objective = settings.pop("objective")
    loss = objective.pop("loss")
    kernel = {"kernel": sampler.pop("type"), **sampler}
    head = {"head": loss.pop("type"), **loss}
    plan = settings.pop("plan")
    rule = settings.pop("rule")
    assert not settings, f"{name} has a part that this test does not know"
    return {**kernel, **plan, **head, **objective, **rule}


def test_every_method_is_in_the_table():
    assert list(PUBLISHED) == names()


@pytest.mark.parametrize("name", PUBLISHED)
def test_the_defaults_of_all_parts_are_the_published_values(name):
    published = {**COMMON, **PUBLISHED[name]}
    for choice in (published["kernel"], published["head"]):
        for key in MEANINGLESS.get(choice, ()):
            del published[key]
    assert flat(composing.method(name)) == published


@pytest.mark.parametrize("name", PUBLISHED)
def test_what_is_written_out_reads_back_as_the_same_method(name):
    """A run folder holds every setting of every part; the paper's values must not be laid over them."""
    method = composing.method(name)
    assert type(method).model_validate(method.model_dump()) == method
    other = composing.method(name, advantage_clip=3.0, timestep_fraction=0.5, profile="noise")
    assert type(other).model_validate(other.model_dump()) == other


# A part that is given in part


@pytest.mark.parametrize(
    ("name", "key", "value"),
    [
        ("flow_grpo", "kl_weight", 0.1),
        ("flow_grpo", "noise_level", 0.5),
        ("dpok", "kl_weight", 0.0),
        ("flow_dppo", "clip", 1e-3),
        ("pcpo", "clip", 1e-3),
        ("pcpo", "noise_level", 0.7),
        ("flash_grpo", "timestep_fraction", 0.5),
        ("flash_grpo", "best_of", 4),
        ("flow_cps", "noise_level", 0.6),
        ("coca", "floor", 0.5),
        ("ddpo", "scale", "batch"),
        ("grpo_guard", "form", "power"),
        ("otca", "train_last", True),
        ("otca", "advantage_clip", 2.0),
    ],
)
def test_a_part_that_is_given_in_part_keeps_the_papers_values(name, key, value):
    assert flat(composing.method(name, **{key: value})) == {**flat(composing.method(name)), key: value}


def test_a_window_that_is_given_in_part_keeps_the_papers_values():
    method = composing.method("flash_grpo", window={"end": 10})
    assert method.plan.window.model_dump() == {"size": 1, "first": 0, "end": 10, "per": "prompt"}
    assert composing.method("flash_grpo", window=None).plan.window is None


def test_a_part_may_be_a_record_of_its_own():
    """From Python; then it stands as it is."""
    method = composing.method("flow_grpo", objective=LikelihoodRatio(kl_weight=0.1))
    assert method.objective == LikelihoodRatio(kl_weight=0.1, kl_form="exact")
    assert composing.method("flow_grpo", sampler=DanceSDE(noise_level=0.5)).sampler == DanceSDE(noise_level=0.5)


# Another type


@pytest.mark.parametrize(
    ("kernel", "sampler", "noise_level"),
    [("dance_sde", DanceSDE, 0.3), ("flow_sde", FlowSDE, 0.7), ("cps", CPS, 0.8), ("ddim", DDIM, 1.0)],
    ids=["dance_sde", "flow_sde", "cps", "ddim"],
)
@pytest.mark.parametrize("name", PUBLISHED)
def test_another_sampler_has_its_own_noise_level_and_the_methods_own_has_the_papers(name, kernel, sampler, noise_level):
    own = composing.method(name).sampler
    method = composing.method(name, kernel=kernel)
    assert isinstance(method.sampler, sampler)
    assert method.sampler.noise_level == (own.noise_level if own.kernel == kernel else noise_level)


@pytest.mark.parametrize(
    ("head", "loss"),
    [("clipped", Clipped(clip=1e-4)), ("hinge", Hinge(clip=1e-4)), ("unclipped", Unclipped())],
)
def test_another_loss_has_its_own_clip_and_the_rest_of_the_objective_stays(head, loss):
    assert composing.method("flow_dppo").objective.loss == TrustRegion(clip=1e-5)
    assert composing.method("flow_dppo", head=head).objective.loss == loss
    method = composing.method("flow_grpo", head=head)
    assert method.objective.loss == loss
    assert (method.objective.kl_weight, method.objective.kl_form) == (0.04, "flow_grpo")


def test_pcpo_weighs_all_steps_alike_on_ddim_and_by_their_length_elsewhere():
    assert composing.method("pcpo", kernel="ddim").objective.profile == "uniform"
    assert composing.method("pcpo", sampler=DDIM()).objective.profile == "uniform"
    assert composing.method("pcpo", kernel="ddim", profile="step_length").objective.profile == "step_length"
    kept = composing.method("pcpo", kernel="ddim", clip=1e-3).objective
    assert kept == LikelihoodRatio(loss=Hinge(clip=1e-3), profile="uniform", place="ratio", form="matching")
    for kernel in ("dance_sde", "flow_sde", "cps"):
        assert composing.method("pcpo", kernel=kernel).objective.profile == "step_length"
    assert composing.method("dance_grpo", kernel="ddim").objective.profile == "native"  # nobody else does


# Nonsense


@pytest.mark.parametrize("name", PUBLISHED)
def test_a_method_of_likelihood_ratios_refuses_a_sampler_without_noise(name):
    with pytest.raises(RecipeError) as caught:
        make_recipe(method={"type": name, "sampler": {"type": "ode"}})
    assert 'method.sampler.type: there is no type "ode"' in str(caught.value)
    assert "(known: cps, dance_sde, ddim, flow_sde)" in str(caught.value)


def test_the_objective_itself_says_why_it_needs_noise():
    """For a method of one's own that allows every sampler."""
    with pytest.raises(ValueError, match=r"method\.sampler is ode, whose moves have no likelihood; take one that adds"):
        LikelihoodRatio().check(ODE())
    LikelihoodRatio().check(DDIM())


@pytest.mark.parametrize(
    ("name", "parts", "sentence"),
    [
        ("otca", {"sampler": {"type": "cps", "train_last": True}}, "method.sampler.train_last: unknown key"),
        ("flow_cps", {"sampler": {"final_state": "x_N"}}, "method.sampler.final_state: unknown key"),
        ("ddpo", {"sampler": {"train_last": True}}, "method.sampler.train_last: unknown key"),
        ("dpok", {"objective": {"loss": {"clip": 1e-3}}}, "method.objective.loss.clip: unknown key"),
        (
            "otca",
            {"objective": {"loss": {"type": "unclipped", "clip": 1e-3}}},
            "method.objective.loss.clip: unknown key",
        ),
        ("otca", {"rule": {"flor": 0.5}}, 'method.rule.flor: unknown key; did you mean "floor"?'),
        (
            "otca",
            {"sampler": {"noise_levl": 0.5}},
            'method.sampler.noise_levl: unknown key; did you mean "noise_level"?',
        ),
        ("otca", {"plan": {"best_off": 4}}, 'method.plan.best_off: unknown key; did you mean "best_of"?'),
        ("otca", {"plan": {"window": {"sise": 2}}}, 'method.plan.window.sise: unknown key; did you mean "size"?'),
        ("otca", {"objective": {"profil": "noise"}}, 'method.objective.profil: unknown key; did you mean "profile"?'),
        ("otca", {"objective": {"loss": {"clp": 1}}}, 'method.objective.loss.clp: unknown key; did you mean "clip"?'),
        (
            "otca",
            {"sampler": {"type": "flow_sd"}},
            'method.sampler.type: there is no type "flow_sd"; did you mean "flow_sde"?',
        ),
        (
            "otca",
            {"objective": {"loss": {"type": "hing"}}},
            'method.objective.loss.type: there is no type "hing"; did you',
        ),
    ],
)
def test_a_key_that_means_nothing_there_is_refused_by_its_place(name, parts, sentence):
    with pytest.raises(RecipeError) as caught:
        make_recipe(method={"type": name, **parts})
    assert sentence in str(caught.value)


def test_a_part_that_there_is_not_names_the_nearest():
    with pytest.raises(RecipeError, match=r'method\.ruel: unknown key; did you mean "rule"\?'):
        load_recipe("recipes/scenes/otca.yaml", ["--method.ruel.floor", "0"])


def test_the_deterministic_sampler_has_no_noise_level():
    with pytest.raises(ValueError, match="noise_level"):
        ODE.model_validate({"noise_level": 0.3})
    assert ODE().at(torch.tensor([1.0, 0.5, 0.0])).noise_level == 0


@pytest.mark.parametrize("value", [0, -0.1, float("nan"), "much"])
@pytest.mark.parametrize("kernel", ["dance_sde", "flow_sde", "cps", "ddim"])
def test_a_noise_level_is_positive(kernel, value):
    with pytest.raises(RecipeError, match=r"method\.sampler\.noise_level"):
        make_recipe(method={"type": "otca", "sampler": {"type": kernel, "noise_level": value}})


@pytest.mark.parametrize("kernel", ["cps", "ddim"])
def test_an_angle_or_a_share_of_noise_is_at_most_one(kernel):
    composing.method("otca", kernel=kernel, noise_level=1.0)
    with pytest.raises(RecipeError, match=r"method\.sampler\.noise_level.* 1"):
        make_recipe(method={"type": "otca", "sampler": {"type": kernel, "noise_level": 1.01}})


@pytest.mark.parametrize(
    ("plan", "sentence"),
    [
        ({"window": {"size": 4}}, "method.plan.window holds 4 of the steps 0 to 2, and the trained steps are 0 to 2"),
        ({"best_of": 5}, "method.plan.best_of is 5, and a group has 4 samples; lower it"),
    ],
)
def test_a_plan_that_does_not_fit_the_rollout_is_refused(plan, sentence):
    with pytest.raises(RecipeError) as caught:
        make_recipe(method={"type": "otca", "plan": plan})
    assert sentence in str(caught.value)


@pytest.mark.parametrize("name", PUBLISHED)
def test_every_setting_of_every_part_says_what_it_is(name):
    """`stepcredit methods NAME` and the page of all keys print it."""

    def undocumented(part, place):
        for key, field in type(part).model_fields.items():
            value = getattr(part, key)
            if isinstance(value, Strict):
                yield from undocumented(value, f"{place}.{key}")
            elif key != "type" and not field.description:
                yield f"{place}.{key}"

    assert list(undocumented(composing.method(name), name)) == []
