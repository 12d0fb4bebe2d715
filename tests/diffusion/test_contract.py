import pytest
import torch

from diffaug.diffusion.contract import Conditioning
from diffaug.errors import ShapeError


def conditioning(rows, value=0.0):
    shapes = ((rows, 1, 4, 4), (rows, 1, 4, 4), (rows, 2, 4, 4), (rows, 2), (rows, 3, 8))
    return Conditioning(*(torch.full(shape, value) for shape in shapes))


def test_every_part_has_one_row_per_window():
    parts = vars(conditioning(3))
    with pytest.raises(ShapeError, match=r"\[2, 3\]"):
        Conditioning(**{**parts, "scale": torch.zeros(2, 2)})


def test_rows_and_stack_are_inverse():
    whole = Conditioning.stack([conditioning(2, 1.0), conditioning(1, 2.0)])
    assert len(whole) == 3
    assert [part.scale[0, 0].item() for part in (whole.rows(slice(0, 1)), whole.rows(torch.tensor([2])))] == [1.0, 2.0]
    again = Conditioning.stack([whole.rows(slice(i, i + 1)) for i in range(3)])
    for name, value in vars(whole).items():
        torch.testing.assert_close(getattr(again, name), value)


@pytest.mark.parametrize("rows", [1, 3])
def test_placing_a_row_changes_that_row_and_none_of_the_parts_it_was_stacked_from(rows):
    parts = [conditioning(1, float(i)) for i in range(rows)]
    whole = Conditioning.stack(parts)
    whole.place(torch.tensor([0]), conditioning(1, 9.0))
    for value in vars(whole).values():
        assert (value[0] == 9.0).all()
        assert all((value[i] == i).all() for i in range(1, rows))
    assert all((value == 0).all() for value in vars(parts[0]).values())
