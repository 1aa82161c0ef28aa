"""MNIST-1D: the published signals, and the published networks."""

from __future__ import annotations

from itertools import islice

import numpy as np
import pytest
import torch
from scipy.ndimage import gaussian_filter1d
from sklearn.linear_model import LogisticRegression
from torch import Tensor, nn
from torch.nn import functional as F

from optimizers import Objective
from tasks.data.mnist1d import LENGTH, blurred, digit_templates, mnist_1d, resampled
from tasks.sequence.mnist1d import MNIST1D, NETWORKS, WIDTHS

torch.set_num_threads(1)
PARAMETERS = {"linear": 410, "dense": 15_210, "convolutional": 5_210, "recurrent": 5_134}
every_network = pytest.mark.parametrize("model", NETWORKS)


def whole(samples: int = 5000, seed: int = 42, shuffled: bool = False) -> tuple[Tensor, Tensor]:
    (inputs, labels), (test_inputs, test_labels) = mnist_1d(samples, seed, shuffled)
    return torch.cat([inputs, test_inputs]), torch.cat([labels, test_labels])


# What `make_dataset` of the package mnist1d 0.0.2.post1 gives, to six digits: the first points of
# the first training signal and the last points of the last test signal, plain and shuffled; the sum
# of the squares of all training points.
PUBLISHED = {
    False: ([-0.332006, -0.471910, -0.778697, -1.009741], [0.447233, 0.659876, 0.877734, 1.193152]),
    True: ([1.035874, 0.410198, -0.882353, -1.093486], [-0.148340, 1.067678, -0.519329, -1.281038]),
}
SQUARES = 159248.253865
LABELS, TEST_LABELS = [2, 6, 4, 5, 6, 6, 6, 0, 3, 1, 6, 9], [1, 2, 5, 9, 6, 4]


@pytest.mark.parametrize("shuffled", PUBLISHED)
def test_signals_are_the_published_ones(shuffled: bool) -> None:
    first, last = PUBLISHED[shuffled]
    (inputs, labels), (test_inputs, test_labels) = mnist_1d(shuffled=shuffled)
    assert (inputs.shape, test_inputs.shape) == ((4000, LENGTH), (1000, LENGTH))
    torch.testing.assert_close(inputs[0, :4], torch.tensor(first), atol=1e-6, rtol=0)
    torch.testing.assert_close(test_inputs[-1, -4:], torch.tensor(last), atol=1e-6, rtol=0)
    assert float(inputs.double().square().sum()) == pytest.approx(SQUARES, rel=1e-7)
    assert labels[:12].tolist() == LABELS
    assert test_labels[-6:].tolist() == TEST_LABELS


def test_the_set_is_balanced_centred_and_the_same_on_every_call() -> None:
    inputs, labels = whole(samples=500, seed=3)
    assert labels.bincount().tolist() == [50] * 10
    assert float(inputs.double().mean()) == pytest.approx(0, abs=1e-6)
    assert float(inputs.double().std(correction=0)) == pytest.approx(1, abs=1e-6)
    mnist_1d.cache_clear()
    assert torch.equal(inputs, whole(samples=500, seed=3)[0])
    assert not torch.equal(inputs, whole(samples=500, seed=4)[0])


def test_shuffling_permutes_the_points_of_all_signals_alike() -> None:
    plain, shuffled = whole(samples=50)[0], whole(samples=50, shuffled=True)[0]
    places = [(plain == column[:, None]).all(dim=0).nonzero().item() for column in shuffled.T]
    assert sorted(places) == list(range(LENGTH))
    assert places != list(range(LENGTH))


def test_templates_start_at_zero_and_have_the_same_deviation() -> None:
    templates = torch.from_numpy(digit_templates())
    assert templates.shape == (10, 12)
    assert torch.equal(templates[:, 0], torch.zeros(10, dtype=torch.float64))
    torch.testing.assert_close(
        templates.std(dim=1, correction=0), torch.full((10,), 1 / 6, dtype=torch.float64)
    )


@pytest.mark.parametrize("length", [5, 9, 40])
def test_resampling_a_straight_line_gives_a_straight_line(length: int) -> None:
    line = torch.linspace(-1, 3, 7, dtype=torch.float64)
    expected = torch.linspace(-1, 3, length, dtype=torch.float64)
    torch.testing.assert_close(torch.from_numpy(resampled(line.numpy(), length)), expected)


def test_blurring_is_scipys_gaussian_filter() -> None:
    noise = np.random.default_rng(0).standard_normal(72)
    np.testing.assert_allclose(blurred(noise), gaussian_filter1d(noise, 2), rtol=1e-12, atol=1e-15)


def test_logistic_regression_gets_a_third_right_as_published() -> None:
    task = MNIST1D()
    inputs, labels = (tensor.numpy() for tensor in task.splits["train"])
    fitted = LogisticRegression(max_iter=1000).fit(inputs, labels)
    # published: 0.32
    assert 0.28 < fitted.score(*(tensor.numpy() for tensor in task.splits["test"])) < 0.36


@every_network
def test_networks_have_the_published_sizes(model: str) -> None:
    network = MNIST1D(model=model).model(0)
    assert sum(parameter.numel() for parameter in network.parameters()) == PARAMETERS[model]
    assert network(torch.randn(3, LENGTH)).shape == (3, 10)


def test_the_second_layer_of_the_dense_one_is_added_to_the_first() -> None:
    network = MNIST1D(model="dense", width=7).model(0).double()
    (a, a0, b, b0, c, c0), inputs = (
        network.parameters(),
        torch.randn(5, LENGTH, dtype=torch.float64),
    )
    hidden = F.relu(inputs @ a.T + a0)
    torch.testing.assert_close(network(inputs), (hidden + F.relu(hidden @ b.T + b0)) @ c.T + c0)


def test_convolutions_leave_19_then_10_then_5_points() -> None:
    network = MNIST1D(model="convolutional").model(0)
    assert isinstance(network, nn.Sequential)
    lengths, signal = [], torch.randn(2, LENGTH)
    for layer in network:
        signal = layer(signal)
        if isinstance(layer, nn.Conv1d):
            lengths.append(signal.shape[2])
    assert lengths == [19, 10, 5]


def test_the_gru_hears_the_signal_from_both_ends() -> None:
    network = MNIST1D(model="recurrent").model(0)
    signal = torch.randn(1, LENGTH, requires_grad=True)
    states = network.get_submodule("recurrent")(signal[:, :, None])[0][0]  # (40, 2 * 6)
    (early,) = torch.autograd.grad(states[10, :6].sum(), signal, retain_graph=True)
    (late,) = torch.autograd.grad(states[10, 6:].sum(), signal)
    assert not early[0, 11:].any()
    assert early[0, :11].all()
    assert not late[0, :10].any()
    assert late[0, 10:].all()


@every_network
def test_per_example_gradients_are_those_of_the_examples(model: str) -> None:
    task = MNIST1D(model=model, width=3, samples=50, val_size=5, batch_size=4).to(
        "cpu", torch.float64
    )
    network = task.model(0)
    inputs, labels = next(task.batches("train", 0))
    rows = Objective(network, task.loss_fn, inputs, labels).per_example_grads()
    for n in range(4):
        loss = F.cross_entropy(network(inputs[n : n + 1]), labels[n : n + 1])
        expected = torch.cat(
            [part.flatten() for part in torch.autograd.grad(loss, list(network.parameters()))]
        )
        torch.testing.assert_close(rows[n], expected)


def test_logistic_regression_has_no_hidden_matrix() -> None:
    assert MNIST1D(model="linear").offers == MNIST1D.offers - {"matrices"}
    assert all(
        MNIST1D(model=model).offers == MNIST1D.offers for model in WIDTHS if model != "linear"
    )


@pytest.mark.slow
def test_networks_are_told_apart_in_the_published_order() -> None:
    accuracies = {}
    for model in ("linear", "dense", "convolutional"):
        task = MNIST1D(model=model)
        network = task.model(0)
        optimizer = torch.optim.Adam(network.parameters(), lr=1e-2)
        for inputs, labels in islice(task.batches("train", 0), 800):
            optimizer.zero_grad()
            task.loss_fn(network(inputs), labels).backward()
            optimizer.step()
        accuracies[model] = task.evaluate(network, "test")["accuracy"]
    assert (
        accuracies["linear"]
        < 0.4
        < 0.55
        < accuracies["dense"]
        < 0.75
        < 0.85
        < accuracies["convolutional"]
    ), accuracies


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            {"model": "vit"},
            "model must be one of linear, dense, convolutional, recurrent, got 'vit'",
        ),
        ({"width": 0}, "width must be above 0, got 0"),
        ({"samples": 5005}, "samples must be a positive multiple of 10, got 5005"),
        ({"samples": 0}, "samples must be a positive multiple of 10, got 0"),
        ({"val_size": 4000}, "val_size must be between 1 and 3999, got 4000"),
    ],
)
def test_bad_values_are_named(arguments: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        MNIST1D(**arguments)  # type: ignore[arg-type]
