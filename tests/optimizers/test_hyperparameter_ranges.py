"""Every hyperparameter is checked, and the message has its name and its value."""

from __future__ import annotations

import inspect
from typing import Any

import pytest

from optimizers.method import Method
from optimizers.packaged import PytorchOptimizer
from tests.optimizers.contract import METHODS, OURS, small

# values outside the range, or outside the choices, by the hyperparameter's name
USUAL: dict[str, list[Any]] = {
    name: values
    for names, values in (
        (
            "block_size damping_period dimension first_inverses history inverse_period krylov "
            "local_steps max_batches max_dim max_dimension max_iterations max_parameters "
            "max_trials memory ns_steps period probes search_steps statistics_period "
            "steps_per_epoch top total_steps window",
            [0, 1.5],
        ),
        (
            "c constant cut damping div eps first first_d first_step floor kl_clip "
            "max_acceleration max_gib max_norm max_radius radius rho tau",
            [0.0, -1.0],
        ),
        ("alpha lr lr_cov outside rate rotation structural variance weight_decay", [-0.1]),
        (
            "averaging beta damping_decay delta function_share gradient_share hessian_share "
            "statistics_share",
            [0.0, 1.1],
        ),
        ("alpha1 decay hessian_power momentum pair_decay powell weight", [-0.1, 1.1]),
        ("bottom dense_limit exact_diagonal max_exact seed start warmup", [-1, 1.5]),
        ("accept exponent progress tolerance warm_start", [-0.1, 1.5]),
        ("beta1 beta2 loss_decay shampoo_beta smoothing", [-0.1, 1.0]),
        ("batch_growth gamma growth max_scale", [0.9]),
        ("fallback_lr min_damping strength", [-1.0]),
        ("average center", ["mean", None]),
        ("base local", ["adam", None]),
        ("beta_up increase", [1.0]),
        ("condition line_search", ["wolfe", None]),
        ("curvature_share search_share", [0.0, 1.5]),
        ("f_star lower_bound", [None]),
        ("input_structure output_structure", ["sparse", None]),
        ("prediction sampling", ["exact", None]),
        ("adjust", ["spectral", None]),
        ("basis", ["svd", None]),
        ("batch", ["other", None]),
        ("coefficients", [[1.0], None]),
        ("curvature", ["fisher", None]),
        ("damping_rule", ["lm", None]),
        ("damping_split", ["half", None]),
        ("decrease", [0.5]),
        ("direction", ["next", None]),
        ("distribution", ["cauchy", None]),
        ("exponents", [[], [-1.0]]),
        ("factor", [1.0, 0.5]),
        ("fallback", ["lion", None]),
        ("fisher", ["true", None]),
        ("form", ["qr", None]),
        ("good", [0.05, -1.0]),
        ("grafting", ["lamb", None]),
        ("groups", ["rows", None]),
        ("inner", [3, None]),
        ("inverse", ["qr", 3]),
        ("kernels", ["flat", None]),
        ("local_lr", [0.0, 2.1]),
        ("modification", ["lu", None]),
        ("momentum_of", ["step", None]),
        ("negative_curvature", ["ignore", None]),
        ("normalize", ["none", None]),
        ("order", [4, 1.5]),
        ("overlap", [0.0, 1.1, 0.5]),
        ("precision", ["float16", None]),
        ("preconditioner", ["jacobi", None]),
        ("regulariser", ["l2", None]),
        ("reset", [1, None]),
        ("restarts", [[1.5], 0.5]),
        ("roles", [["vector"], [], None]),
        ("rule", ["bb3", None]),
        ("scaling", ["norm", None]),
        ("scope", ["layer", None]),
        ("shared_weights", ["sum", None]),
        ("sigma", [0.0, 1e30]),
        ("skip", [[1], 3]),
        ("step_rule", ["best", None]),
        ("subproblem", ["steihaug", None]),
    )
    for name in names.split()
}
# methods whose ranges or choices differ
UNUSUAL: dict[str, dict[str, list[Any]]] = {
    method: ranges
    for methods, ranges in (
        ("AdaHessian", {"lr": [-1.0], "averaging": ["cube", None]}),
        ("SophiaH SophiaG", {"lr": [-1.0]}),
        ("INNAprop", {"lr": [-0.1, 0.9], "beta": [0.0, -1.0], "sigma": [-0.1, 1.0]}),
        ("HessianFree", {"lr": [0.0, -1.0], "damping": [-1.0]}),
        ("KSD", {"lr": [0.0, -1.0], "floor": [0.0, 1.5]}),
        (
            "TrustRegion",
            {
                "lr": [0.0, -1.0],
                "subproblem": ["lanczos", None],
                "radius": [0.0, 100000000000.0],
                "accept": [-0.1, 0.25],
            },
        ),
        ("TRON", {"lr": [0.0, -1.0], "preconditioner": ["fisher", None]}),
        ("ARC SubsampledARC GaussNewton", {"lr": [0.0, -1.0]}),
        (
            "Newton",
            {
                "lr": [0.0, -1.0],
                "max_trials": [0, 2.5],
                "beta": [0.0, -0.001],
                "max_parameters": [0],
            },
        ),
        (
            "SaddleFreeNewton",
            {
                "lr": [0.0, -1.0],
                "form": ["dense", None],
                "max_trials": [0, 2.5],
                "damping": [-0.001],
                "max_parameters": [0],
            },
        ),
        ("NewtonCG", {"lr": [0.0, -1.0], "max_trials": [0, True]}),
        (
            "GGNCG",
            {
                "lr": [0.0, -1.0],
                "max_trials": [0, True],
                "damping": [-1.0],
                "warm_start": [-0.1, 1.1],
                "tolerance": [-0.001, 1.1],
            },
        ),
        (
            "LevenbergMarquardt",
            {
                "lr": [0.0, -1.0],
                "rule": ["more", None],
                "max_trials": [0, True],
                "increase": [1.0, 0.5],
                "decrease": [0.0, 1.5],
            },
        ),
        (
            "BFGS DFP LBFGS",
            {
                "lr": [0.0, -1.0],
                "max_trials": [0, True],
                "damping": [-0.1, 1.0],
                "skip": [-0.001, 1.0],
                "curvature": [0.0, 1.0],
            },
        ),
        ("SR1", {"lr": [0.0, -1.0], "skip": [-0.001, 1.1]}),
        ("BB", {"form": ["stochastic", None]}),
        ("OGR", {"form": ["block", None], "gamma": [0.0, 1.1]}),
        ("SPS", {"rule": ["smooth", None], "eps": [-1.0]}),
        (
            "KFAC",
            {
                "averaging": [-0.1, 1.1],
                "distribution": ["all", None],
                "curvature_share": [0.0, 1.1],
            },
        ),
        (
            "EKFAC",
            {
                "averaging": [-0.1, 1.1],
                "distribution": ["memory", None],
                "curvature_share": [0.0, 1.1],
                "damping_split": ["equal"],
                "inverse": ["qr", "cholesky"],
            },
        ),
        ("SLS", {"c": [0.0, 1.0], "beta": [0.0, 1.0]}),
        ("SOAA", {"gamma": [-0.1, 1.1]}),
        ("AdaFisher", {"gamma": [-0.1, 1.1], "fisher": ["exact", None]}),
        ("MomentumParabola", {"gamma": [0.0, 1.1], "growth": [-0.1]}),
        ("ALIG", {"eps": [-1.0]}),
        ("RAMDA", {"eps": [0.0]}),
        ("ProxAdamW", {"eps": [0.0], "beta1": [-0.1, 1.1], "beta2": [-0.1, 1.1]}),
        ("MoMo", {"beta": [-0.1, 1.0]}),
        ("Shampoo SOAP KLShampoo", {"beta1": [-0.1, 1.1], "beta2": [-0.1, 1.1]}),
        ("GGT", {"beta2": [0.0, 1.1]}),
        ("TNT", {"fisher": ["exact", None]}),
        ("FOSI", {"floor": [-0.1, 1.1]}),
    )
    for method in methods.split()
}
CLASSES: dict[str, type[Method]] = {
    METHODS[name].__name__: METHODS[name]
    for name in OURS
    # hands its hyperparameters on, unseen: test_packaged.py
    if METHODS[name] is not PytorchOptimizer
}


def numeric(kind: type[Method]) -> list[str]:
    """The hyperparameters that are no switches."""
    signature = inspect.signature(kind.__init__).parameters
    return [
        name
        for name, parameter in signature.items()
        if name not in ("self", "params") and not isinstance(parameter.default, bool)
    ]


REJECTED = [
    (kind, name, value)
    for kind, method in CLASSES.items()
    for name in numeric(method)
    for value in [
        *UNUSUAL.get(kind, {}).get(name, USUAL[name]),
        *(float("nan"), float("inf"), "0.1"),
    ]
]


@pytest.mark.parametrize(("kind", "name", "value"), REJECTED)
def test_a_hyperparameter_out_of_range_is_named(kind: str, name: str, value: object) -> None:
    with pytest.raises(ValueError, match=name) as refusal:
        CLASSES[kind](small().model.named_parameters(), **{name: value})
    assert repr(value) in str(refusal.value)


def test_no_range_is_of_a_hyperparameter_that_is_gone() -> None:
    names = {kind: set(numeric(method)) for kind, method in CLASSES.items()}
    assert set(USUAL) <= set().union(*names.values())
    assert all(set(ranges) <= names[kind] for kind, ranges in UNUSUAL.items())
