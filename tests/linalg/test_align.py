"""The gauge of singular vectors: signs and assignments, on values worked out by hand."""

import pytest
import torch

from svdistill.errors import OptionError, ShapeError
from svdistill.linalg.align import aligning_signs, assign, canonical_signs

COSINE = torch.tensor([[[0.9, -0.95], [0.1, 0.3], [-0.4, 0.2]]])  # three student, two teacher vectors


def test_argmax_may_take_a_vector_twice():
    """The published rule takes the best student vector for each teacher vector, here the first for both."""
    assert assign(COSINE, assignment="argmax").tolist() == [[0, 0]]


def test_one_to_one_takes_each_vector_once():
    """The best pair comes first (0 for teacher 1), then the best of what is left (2 for teacher 0)."""
    assert assign(COSINE, assignment="one_to_one").tolist() == [[2, 0]]


def test_one_to_one_agrees_with_going_through_the_pairs():
    """Against the same rule written as a loop over sorted pairs, sample by sample."""
    cosine = torch.rand(50, 5, 4, generator=torch.Generator().manual_seed(0)) * 2 - 1
    for row, found in zip(cosine, assign(cosine, assignment="one_to_one").tolist(), strict=True):
        expected: dict[int, int] = {}
        for flat in row.abs().flatten().argsort(descending=True).tolist():
            student, teacher = divmod(flat, 4)
            if teacher not in expected and student not in expected.values():
                expected[teacher] = student
        assert found == [expected[t] for t in range(4)]


@pytest.mark.parametrize("assignment", ["argmax", "one_to_one"])
def test_empty_batch(assignment):
    """No samples give no indices."""
    assert assign(torch.zeros(0, 3, 2), assignment=assignment).shape == (0, 2)


def test_errors():
    """Too few student vectors and a misspelt name are refused."""
    with pytest.raises(ShapeError, match="1 for 2"):
        assign(torch.zeros(4, 1, 2), assignment="one_to_one")
    with pytest.raises(OptionError, match="did you mean 'argmax'"):
        assign(COSINE, assignment="argmin")


def test_canonical_signs():
    """Positive lean wins; a lean that is only rounding is decided by the entry of largest magnitude."""
    rows = torch.tensor([[[0.6, -0.8], [0.6, -0.8], [0.6, -0.8]]])
    lean = torch.tensor([[0.5, -0.5, -1e-7]])
    assert canonical_signs(rows, lean, torch.ones(1, 3)).tolist() == [[1, -1, -1]]


def test_canonical_signs_at_the_edges():
    """What counts as rounding grows with the scale; without a lean the first of the largest entries decides."""
    rows = torch.tensor([[[0.6, -0.8]]]).expand(1, 4, 2)
    lean, scale = torch.tensor([[0.0, 1e-3, 1e-3, 0.0]]), torch.tensor([[0.0, 1e3, 1.0, 1.0]])
    assert canonical_signs(rows, lean, scale).tolist() == [[-1, -1, 1, -1]]
    even = torch.tensor([[[-0.5, 0.5, 0.5, 0.5], [0.5, -0.5, -0.5, -0.5], [0.1, -0.7, 0.7, 0.1]]])
    assert canonical_signs(even, torch.zeros(1, 3), torch.ones(1, 3)).tolist() == [[-1, 1, -1]]


def test_as_many_student_vectors_as_teacher_vectors():
    """One to one, each is taken, the best pair first: 1 for teacher 0, so 0 for teacher 1."""
    cosine = torch.tensor([[[0.8, 0.7], [-0.9, 0.85]]])
    assert assign(cosine, assignment="one_to_one").tolist() == [[1, 0]]
    assert assign(cosine, assignment="argmax").tolist() == [[1, 1]]


@pytest.mark.parametrize("shape", [(4, 0, 2), (4, 3, 0)])
def test_no_vectors(shape):
    """Without candidates the index stands for nothing."""
    assert assign(torch.zeros(shape), assignment="argmax").tolist() == [[0] * shape[2]] * 4


def test_aligning_signs():
    """They make each product non-negative; a product of zero is left as it is."""
    assert aligning_signs(torch.tensor([[0.5, -2.0, 0.0, -0.0]])).tolist() == [[1, -1, 1, 1]]
