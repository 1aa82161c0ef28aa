"""From a `_target_` to an object: what is allowed, what is checked, what the message says to
type."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch

from suite.config.instantiate import construct, locate
from suite.errors import ConfigError, did_you_mean, require_one_of

PARAMETERS = [torch.nn.Parameter(torch.zeros(3, 2)), torch.nn.Parameter(torch.zeros(3))]
NAMED = [("hidden.weight", PARAMETERS[0]), ("out.weight", torch.nn.Parameter(torch.zeros(2, 3)))]
PAIR: dict[str, Any] = {
    "_target_": f"{__name__}.Pair",
    "hidden": {"_target_": "torch.optim.Muon", "_partial_": True, "lr": 0.5},
    "rest": {"_target_": "torch.optim.AdamW", "_partial_": True, "lr": 0.25},
}


class Pair:
    """Two optimizers, which it makes itself."""

    def __init__(
        self, params: list[Any], hidden: Callable[..., Any], rest: Callable[..., Any]
    ) -> None:
        self.hidden = hidden([parameter for name, parameter in params if name == "hidden.weight"])
        self.rest = rest([parameter for name, parameter in params if name != "hidden.weight"])


def refusal(node: dict[str, Any], *allow: str) -> str:
    with pytest.raises(ConfigError) as refused:
        construct(node, PARAMETERS, allow=allow)
    return str(refused.value)


def test_a_node_is_called_with_its_own_keys() -> None:
    built = construct({"_target_": "torch.optim.Adam", "lr": 0.5, "betas": [0.8, 0.9]}, PARAMETERS)
    assert isinstance(built, torch.optim.Adam)
    assert (built.defaults["lr"], list(built.defaults["betas"])) == (0.5, [0.8, 0.9])


def test_a_search_space_is_not_an_argument() -> None:
    built = construct(
        {"_target_": "torch.optim.SGD", "lr": 0.5, "search": {"lr": {"low": 1, "high": 2}}},
        PARAMETERS,
    )
    assert built.defaults["lr"] == 0.5


def test_inner_nodes_are_made_first_and_partial_ones_are_called_later() -> None:
    built = construct(PAIR, NAMED, allow=[__name__])
    assert isinstance(built.hidden, torch.optim.Muon)
    assert isinstance(built.rest, torch.optim.AdamW)
    assert [built.hidden.defaults["lr"], built.rest.defaults["lr"]] == [0.5, 0.25]


@pytest.mark.parametrize(
    "target", ["os.system", "torch.save", "optimizersx.Evil", "torch.optimx.SGD", "builtins.eval"]
)
def test_a_target_outside_the_allow_list_is_refused_with_what_to_add(target: str) -> None:
    message = refusal({"_target_": target})
    assert f"{target} is not on the allow-list (optimizers, tasks, torch.optim, " in message
    assert f"'allow=[{target.split('.')[0]}]'" in message


def test_an_inner_node_obeys_the_allow_list_too() -> None:
    with pytest.raises(ConfigError, match=r"os\.system is not on the allow-list"):
        construct(
            {**PAIR, "rest": {"_target_": "os.system", "_partial_": True}}, NAMED, allow=[__name__]
        )


@pytest.mark.parametrize("allow", ["collections", "collections.", "collections.Counter"])
def test_what_the_user_trusts_is_allowed(allow: str) -> None:
    assert locate("collections.Counter", [allow]).__name__ == "Counter"


def test_what_the_user_trusts_is_allowed_in_inner_nodes_too(
    module: Callable[[str, str], str],
) -> None:
    name = module("my_rest", "import torch\nclass Rest(torch.optim.SGD):\n    pass\n")
    node = {**PAIR, "rest": {"_target_": f"{name}.Rest", "_partial_": True, "lr": 0.5}}
    assert type(construct(node, NAMED, allow=[name, __name__]).rest).__name__ == "Rest"


def test_trusting_one_module_trusts_no_other_of_a_similar_name() -> None:
    with pytest.raises(ConfigError, match="not on the allow-list"):
        locate("collections.abc.Mapping", ["collections.Counter"])
    with pytest.raises(ConfigError, match="not on the allow-list"):
        locate("json.dumps", ["js", ""])


@pytest.mark.parametrize(
    ("target", "message"),
    [
        ("torch.optim.SDG", "torch.optim has no SDG. Did you mean SGD"),
        ("optimizers.nope.KFAC", "cannot be imported: No module named 'optimizers.nope'"),
        ("optimizers.natural_gradient.KFACC", "has no KFACC. Did you mean KFAC"),
        ("optimizers.matrix.muon.SCALES", "is not a class or function"),
    ],
)
def test_a_target_that_is_not_there_says_what_is(target: str, message: str) -> None:
    assert message in refusal({"_target_": target})


@pytest.mark.parametrize(
    ("node", "message"),
    [
        (
            {"_target_": "torch.optim.Adam", "beta": 1},
            "Adam has no hyperparameter 'beta'. Did you mean betas?",
        ),
        ({"_target_": "optimizers.natural_gradient.KFAC", "dampin": 1}, "Did you mean damping"),
        (
            {**PAIR, "hidden": {**PAIR["hidden"], "momentun": 1}},
            "torch.optim.Muon has no hyperparameter 'momentun'.",
        ),
        ({**PAIR, "hiden": 1}, "Did you mean hidden?"),
        (
            {"_target_": "torch.optim.SGD", "zzz": 1},
            "has no hyperparameter 'zzz'. It has: lr, momentum, ",
        ),
    ],
)
def test_an_unknown_hyperparameter_names_the_closest_and_all_there_are(
    node: dict[str, Any], message: str
) -> None:
    text = refusal(node, __name__)
    assert message in text
    assert "params" not in text.partition("It has: ")[2].rstrip(".").split(", ")


@pytest.mark.parametrize(
    ("node", "message"),
    [
        (
            {"_target_": "torch.optim.SGD", "lr": "abc"},
            "torch.optim.SGD cannot be made from lr='abc': ",
        ),
        (
            {"_target_": f"{__name__}.Pair"},
            "missing 2 required positional arguments: 'hidden' and 'rest'",
        ),
    ],
)
def test_a_word_for_a_number_and_a_missing_argument_are_refused_in_words(
    node: dict[str, Any], message: str
) -> None:
    assert message in refusal(node, __name__)


@pytest.mark.parametrize(
    ("node", "name", "value"),
    [
        ({"_target_": "optimizers.natural_gradient.KFAC", "damping": -1}, "damping", "-1"),
        ({"_target_": "optimizers.newton.Newton", "max_trials": 0}, "max_trials", "0"),
        ({"_target_": "optimizers.least_squares.GGNCG", "lr": float("nan")}, "lr", "nan"),
        ({"_target_": "torch.optim.Adam", "betas": [0.9, 1.5]}, "beta", "1.5"),
    ],
)
def test_a_value_out_of_range_is_a_value_error_with_name_and_value(
    node: dict[str, Any], name: str, value: str
) -> None:
    with pytest.raises(ValueError, match=name) as refused:
        construct(node, PARAMETERS)
    assert value in str(refused.value)


def test_a_class_that_takes_any_keyword_is_not_second_guessed(
    module: Callable[[str, str], str],
) -> None:
    name = module("open_class", "def make(params, **kwargs):\n    return kwargs\n")
    assert construct({"_target_": f"{name}.make", "anything": 1}, PARAMETERS, allow=[name]) == {
        "anything": 1
    }


def test_suggestions_are_close_names_only() -> None:
    assert did_you_mean("momentm", ["momentum", "lr"]) == " Did you mean momentum?"
    assert did_you_mean("zzz", ["momentum", "lr"]) == ""
    with pytest.raises(
        ConfigError, match=r"scale=quik is not one of quick, small\. Did you mean quick\?"
    ):
        require_one_of("scale", "quik", ("quick", "small"))
