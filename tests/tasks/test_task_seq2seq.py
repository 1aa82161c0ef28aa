"""Spelling to pronunciation.

The dictionary, padding that counts for nothing, and what the metrics mean.
"""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from optimizers import Objective
from optimizers.objective.likelihoods import family_of
from tasks.data import DataMissingError
from tasks.data.cmudict import BOUNDARY, PAD, encode_entries, load_entries
from tasks.language.seq2seq import EncoderDecoder, Seq2Seq

TINY: dict[str, Any] = {
    "longest": 6,
    "embedding": 4,
    "hidden": 8,
    "val_size": 200,
    "test_size": 10,
    "batch_size": 20,
}


@pytest.fixture(params=[True, False], ids=["attention", "no attention"])
def task(request: pytest.FixtureRequest) -> Seq2Seq:
    return Seq2Seq(**TINY, attention=request.param).to("cpu", torch.float64)


def first_batch(task: Seq2Seq) -> tuple[Tensor, Tensor]:
    return next(task.batches("train", 0))


def trained(task: Seq2Seq, steps: int = 150) -> EncoderDecoder:
    model = task.model(0)
    optimizer = torch.optim.Adam(model.parameters(), lr=0.02)
    batches = task.batches("train", 0)
    for _ in range(steps):
        inputs, targets = next(batches)
        optimizer.zero_grad()
        task.loss_fn(model(inputs), targets).backward()
        optimizer.step()
    assert isinstance(model, EncoderDecoder)
    return model


def test_the_small_dictionary_is_a_quarter_of_the_usable_entries() -> None:
    entries = load_entries("cmudict_small", stress=True, longest=100)
    assert len(entries) == -(-116_506 // 4)
    assert [word for word, _ in entries] == sorted(word for word, _ in entries)
    assert len({phoneme for _, phonemes in entries for phoneme in phonemes}) == 69
    plain = load_entries("cmudict_small", stress=False, longest=100)
    assert len({phoneme for _, phonemes in plain for phoneme in phonemes}) == 39
    assert dict(plain)["ABANDONING"] == ("AH", "B", "AE", "N", "D", "AH", "N", "IH", "NG")


def test_encoding_can_be_undone() -> None:
    entries = load_entries("cmudict_small", stress=False, longest=9)[::100]
    letters, phonemes, symbols = encode_entries(entries, 9)
    for row, (word, spoken) in enumerate(entries):
        assert "".join(chr(64 + n) for n in letters[row].tolist() if n != PAD) == word
        begin, *inner, end = [n for n in phonemes[row].tolist() if n != PAD]
        assert (begin, end) == (BOUNDARY, BOUNDARY)
        assert tuple(symbols[n - 2] for n in inner) == spoken


def test_decoder_is_given_what_came_before(task: Seq2Seq) -> None:
    inputs, targets = first_batch(task)
    decoder_inputs = inputs[:, task.longest :]
    assert decoder_inputs.shape == targets.shape == (20, 7)
    assert torch.equal(decoder_inputs != PAD, targets != PAD)
    assert (decoder_inputs[:, 0] == BOUNDARY).all()
    later = targets[:, 1:] != PAD
    assert torch.equal(decoder_inputs[:, 1:][later], targets[:, :-1][later])


def test_loss_is_the_sum_over_real_places_and_padding_has_no_gradient(task: Seq2Seq) -> None:
    model = task.model(0)
    inputs, targets = first_batch(task)
    logits = model(inputs)
    real = F.cross_entropy(logits, targets, ignore_index=PAD, reduction="sum") / targets.numel()
    loss = task.loss_fn(logits, targets)
    torch.testing.assert_close(loss, real, rtol=1e-14, atol=0)
    ours, theirs = (
        torch.autograd.grad(x, list(model.parameters()), retain_graph=True) for x in (loss, real)
    )
    for own, other in zip(ours, theirs, strict=True):
        torch.testing.assert_close(own, other, rtol=1e-12, atol=1e-16)


def test_padding_changes_nothing(task: Seq2Seq) -> None:
    model = task.model(0)
    assert isinstance(model, EncoderDecoder)
    inputs, _ = first_batch(task)
    wide = EncoderDecoder(len(task.symbols) + 2, 4, 8, 9, attention=task.attention).double()
    wide.load_state_dict(model.state_dict())
    with torch.no_grad():
        wide.letter_embedding.weight[PAD] = 7.0  # of no consequence, as is the decoder's
        wide.phoneme_embedding.weight[PAD] = -7.0
    letters, decoder_inputs = inputs[:, :6], inputs[:, 6:]
    padded = torch.cat([F.pad(letters, (0, 3)), F.pad(decoder_inputs, (0, 3))], dim=1)
    logits = wide(padded)
    torch.testing.assert_close(logits[..., :7], model(inputs), rtol=1e-12, atol=1e-14)
    assert (logits[..., 7:].argmax(dim=1) == PAD).all()


def test_targets_drawn_from_the_model_are_padded_where_the_data_are(task: Seq2Seq) -> None:
    inputs, targets = first_batch(task)
    family = family_of(task.loss_fn)
    assert family is not None
    logits, generator = task.model(0)(inputs), torch.Generator().manual_seed(0)
    for _ in range(5):
        drawn = family.sample(logits, family.noise(logits, generator))
        assert (drawn[targets == PAD] == PAD).all()
        assert (drawn[targets != PAD] != targets[targets != PAD]).double().mean() > 0.9


def test_examples_have_gradients_of_their_own(task: Seq2Seq) -> None:
    objective = Objective(task.model(0), task.loss_fn, *first_batch(task))
    objective()
    torch.testing.assert_close(
        objective.per_example_grads().mean(dim=0), objective.gradient(), rtol=1e-10, atol=1e-14
    )


def test_gauss_newton_matrix_is_that_of_the_real_places(task: Seq2Seq) -> None:
    model = task.model(0)
    inputs, targets = (tensor[:1] for tensor in first_batch(task))
    params = list(model.parameters())
    vector = torch.randn(sum(p.numel() for p in params), dtype=torch.float64)
    product = Objective(model, task.loss_fn, inputs, targets).ggn()(vector)
    logits = model(inputs).transpose(1, 2)[targets != PAD]
    jacobian = torch.stack(
        [
            torch.cat(
                [
                    g.flatten()
                    for g in torch.autograd.grad(
                        z, params, retain_graph=True, materialize_grads=True
                    )
                ]
            )
            for z in logits.flatten()
        ]
    ).view(*logits.shape, -1)
    chance = logits.softmax(dim=1).detach()
    pushed = jacobian @ vector
    curved = chance * (pushed - (chance * pushed).sum(dim=1, keepdim=True))
    expected = torch.einsum("kc,kcn->n", curved, jacobian) / targets.numel()
    torch.testing.assert_close(product, expected, rtol=1e-9, atol=1e-13)


def test_a_prediction_does_not_see_what_follows(task: Seq2Seq) -> None:
    model = task.model(0)
    inputs, targets = first_batch(task)
    changed = inputs.clone()
    long = (targets != PAD).sum(dim=1) > 4
    changed[:, task.longest + 3] = changed[:, task.longest + 3] % (len(task.symbols) - 1) + 2
    before, after = model(inputs)[long], model(changed)[long]
    assert long.any()
    torch.testing.assert_close(before[..., :3], after[..., :3])
    assert not torch.allclose(before[..., 3], after[..., 3])


def test_exact_is_the_share_of_words_that_greedy_decoding_gets_right() -> None:
    task = Seq2Seq(**{**TINY, "embedding": 16, "hidden": 48, "batch_size": 64})
    model = trained(task)
    inputs, targets = task.splits["val"]
    decoder_inputs = torch.full_like(targets, PAD)
    decoder_inputs[:, 0] = BOUNDARY
    spoken = torch.full_like(targets, PAD)
    going = torch.ones(len(inputs), dtype=torch.bool)
    with torch.no_grad():
        for place in range(targets.shape[1]):
            logits = model(torch.cat([inputs[:, : task.longest], decoder_inputs], dim=1))
            spoken[going, place] = logits[going, :, place].argmax(dim=1)
            going &= spoken[:, place] > BOUNDARY
            if place + 1 < targets.shape[1]:
                decoder_inputs[going, place + 1] = spoken[going, place]
    right = float((spoken == targets).all(dim=1).double().mean())
    metrics = task.evaluate(model, "val")
    assert 0.02 < right < 0.9
    assert metrics["exact"] == pytest.approx(right)


def test_token_error_counts_real_places_alone(task: Seq2Seq) -> None:
    _, targets = first_batch(task)
    logits = F.one_hot(targets, len(task.symbols) + 2).transpose(1, 2).double()
    assert float(task.measure(logits, targets)["token_error"].max()) == 0
    logits[:, :, 0] = 0  # the first phoneme is answered PAD, everything else rightly
    metrics = task.measure(logits, targets)
    torch.testing.assert_close(metrics["token_error"], 1 / (targets != PAD).sum(dim=1).double())
    assert float(metrics["exact"].sum()) == 0


def test_the_full_dictionary_says_how_it_is_brought(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Any
) -> None:
    monkeypatch.setenv("SUITE_DATA", str(tmp_path))
    with pytest.raises(DataMissingError, match=r"python scripts/fetch_data\.py cmudict"):
        Seq2Seq(data="cmudict")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"data": "brown"}, "data must be one of cmudict_small, cmudict, got 'brown'"),
        ({"longest": 0}, "longest must be above 0, got 0"),
        ({"longest": 1}, r"test_size must be between 1 and \d+, got 1000"),
        ({"hidden": 0}, "hidden must be above 0, got 0"),
        ({"val_size": 10**6}, r"val_size must be between 1 and \d+, got 1000000"),
    ],
)
def test_bad_values_are_named(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Seq2Seq(**arguments)
