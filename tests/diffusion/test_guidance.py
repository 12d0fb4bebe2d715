import pytest
import torch

from diffaug.diffusion.contract import Conditioning
from diffaug.diffusion.guidance import Guided

NOTHING = torch.zeros(1, 3, 8, dtype=torch.float64)
T = torch.tensor([900, 40])  # of two rows: before and after the switch
SWITCH = 500


def told():
    generator = torch.Generator().manual_seed(0)
    shapes = ((2, 1, 4, 4), (2, 1, 4, 4), (2, 2, 4, 4), (2, 2), (2, 3, 8))
    return Conditioning(*(torch.randn(shape, generator=generator, dtype=torch.float64) for shape in shapes))


def latents():
    return torch.randn(2, 2, 4, 4, generator=torch.Generator().manual_seed(1), dtype=torch.float64)


class Counted:
    """A denoiser whose estimate is a sum of what text, mask and latents say; it counts the rows it evaluates."""

    def __init__(self):
        self.rows = []

    def __call__(self, x_t, t, told):
        self.rows.append(len(x_t))
        return x_t + told.text.mean((1, 2)).view(-1, 1, 1, 1) + 3 * told.mask


def guided(text, mask, denoiser=None, until=0):
    return Guided(denoiser or Counted(), NOTHING, text, mask, SWITCH, until)


def test_weights_of_one_change_nothing_and_cost_nothing():
    plain, counted = Counted(), Counted()
    assert torch.equal(guided(1.0, 1.0, counted)(latents(), T, told()), plain(latents(), T, told()))
    assert counted.rows == plain.rows == [2]


def test_mask_guidance_scales_what_text_and_mask_add_while_a_row_is_noisy():
    added = told().text.mean((1, 2)).view(-1, 1, 1, 1) + 3 * told().mask
    found = guided(1.0, 2.0)(latents(), T, told())
    torch.testing.assert_close(found[:1], (latents() + 2.0 * added)[:1])
    torch.testing.assert_close(found[1:], (latents() + added)[1:])


def test_text_guidance_scales_what_the_text_adds_afterwards():
    text, mask = told().text.mean((1, 2)).view(-1, 1, 1, 1), 3 * told().mask
    found = guided(2.5, 1.0)(latents(), T, told())
    torch.testing.assert_close(found[:1], (latents() + text + mask)[:1])
    torch.testing.assert_close(found[1:], (latents() + 2.5 * text + mask)[1:])


@pytest.mark.parametrize(("text", "mask"), [(2.0, 1.0), (1.0, 2.0), (2.0, 2.0)])
def test_guidance_costs_one_evaluation_more_in_one_batch(text, mask):
    counted = Counted()
    guided(text, mask, counted)(latents(), T, told())
    assert counted.rows == [4]


def test_a_row_is_guided_alike_beside_any_other():
    both, alone = latents(), told().rows(torch.tensor([1]))
    found = guided(2.0, 3.0)(both[1:], T[1:], alone)
    torch.testing.assert_close(found, guided(2.0, 3.0)(both, T, told())[1:])


@pytest.mark.parametrize("until", [0, 41, 500, 901])
def test_rows_under_the_last_guided_timestep_are_not_guided(until):
    everywhere = guided(2.5, 1.5)(latents(), T, told())
    nowhere, found = Counted()(latents(), T, told()), guided(2.5, 1.5, until=until)(latents(), T, told())
    for row, t in enumerate(T.tolist()):
        torch.testing.assert_close(found[row], (everywhere if t >= until else nowhere)[row])


def test_only_guided_rows_are_evaluated_again_in_batches_of_few_shapes():
    told_of = Conditioning(*(value[:1].expand(9, *value.shape[1:]) for value in vars(told()).values()))
    x_t = latents()[:1].expand(9, -1, -1, -1)
    for high, rows in ((0, 9), (1, 13), (4, 13), (5, 17), (8, 17), (9, 18)):
        for text, mask, low in ((1.0, 2.0, 100), (2.0, 2.0, 99)):  # the others weigh 1, or lie under `until`
            counted, t = Counted(), torch.tensor([900] * high + [low] * (9 - high))
            guided(text, mask, counted, until=100)(x_t, t, told_of)
            assert counted.rows == [rows]
