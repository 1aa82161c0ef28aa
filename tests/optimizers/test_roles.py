"""What a parameter is in its network."""

from __future__ import annotations

from torch import nn

from optimizers.layers.roles import Role, model_roles, roles
from tests.optimizers.cases import CASES, TiedEmbedding, conv_bn, mlp


def roles_of(model: nn.Module) -> dict[str, Role]:
    return roles(list(model.named_parameters()))


def test_roles_of_an_mlp() -> None:
    assert roles_of(mlp((4, 5, 6, 3))) == {
        "0.weight": Role.HIDDEN,
        "0.bias": Role.VECTOR,
        "2.weight": Role.HIDDEN,
        "2.bias": Role.VECTOR,
        "4.weight": Role.HEAD,
        "4.bias": Role.VECTOR,
    }


def test_an_output_layer_with_one_unit_is_the_head() -> None:
    """It has one row, but the hidden matrix before it must not take its place."""
    assert roles_of(mlp((4, 5, 1)))["2.weight"] is Role.HEAD
    assert roles_of(mlp((4, 5, 1)))["0.weight"] is Role.HIDDEN


def test_convolutions_and_normalisations() -> None:
    assert roles_of(conv_bn()) == {
        "0.weight": Role.HIDDEN,
        "0.bias": Role.VECTOR,
        "1.weight": Role.VECTOR,
        "1.bias": Role.VECTOR,
        "5.weight": Role.HEAD,
        "5.bias": Role.VECTOR,
    }


def test_embeddings_go_by_name() -> None:
    found_roles = roles_of(TiedEmbedding())
    assert found_roles["embedding.weight"] is Role.EMBEDDING
    model = nn.ModuleDict(
        {"wte": nn.Embedding(5, 4), "pos_embed": nn.Embedding(3, 4), "block": nn.Linear(4, 4)}
    )
    model["head"] = nn.Linear(4, 5)
    kinds = roles_of(model)
    assert kinds["wte.weight"] is kinds["pos_embed.weight"] is Role.EMBEDDING
    assert kinds["block.weight"] is Role.HIDDEN
    assert kinds["head.weight"] is Role.HEAD


def test_a_name_that_only_contains_a_word_is_no_embedding() -> None:
    model = nn.ModuleDict(
        {"composer": nn.Linear(3, 3), "history": nn.Linear(3, 3), "out": nn.Linear(3, 3)}
    )
    assert roles_of(model)["composer.weight"] is roles_of(model)["history.weight"] is Role.HIDDEN


def test_thin_matrices_are_vectors_and_order_is_kept() -> None:
    model = nn.ModuleDict(
        {"thin": nn.Linear(1, 4), "flat": nn.Linear(4, 4), "out": nn.Linear(4, 2)}
    )
    kinds = roles_of(model)
    assert list(kinds) == [name for name, _ in model.named_parameters()]
    assert kinds["thin.weight"] is Role.VECTOR


def test_a_model_of_one_vector() -> None:
    assert roles_of(CASES["rosenbrock"]().model) == {"x": Role.VECTOR}


def test_a_tied_head_is_an_embedding_and_leaves_the_hidden_matrix_alone() -> None:
    model = TiedEmbedding()
    assert roles_of(model)["hidden.weight"] is Role.HEAD  # its own names cannot tell
    kinds = model_roles(model)
    assert kinds[model.embedding.weight] is Role.EMBEDDING
    assert kinds[model.hidden.weight] is Role.HIDDEN
    assert kinds[model.hidden.bias] is Role.VECTOR
    assert list(kinds) == list(model.parameters())


def test_by_model_and_by_name_agree_where_nothing_is_tied() -> None:
    for model in (mlp((4, 5, 6, 3)), conv_bn()):
        assert list(model_roles(model).values()) == list(roles_of(model).values())
