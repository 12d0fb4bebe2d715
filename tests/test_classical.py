import pytest
import torch

from diffaug.classical import vary


def scene(count=8, side=64):
    masks = torch.zeros(count, 1, side, side)
    masks[:, :, 16:40, 20:44] = 1
    return (0.25 + 0.5 * masks).expand(count, 3, side, side).clone(), masks


def test_images_and_masks_move_together_and_torchs_generator_is_left_alone():
    images, masks = scene()
    before = torch.random.get_rng_state()
    moved, labels, _ = vary(images, masks, 1.0, 0, 1)
    assert torch.equal(before, torch.random.get_rng_state())
    assert set(labels.unique().tolist()) <= {0.0, 1.0}
    assert not torch.equal(labels, masks)
    grey = moved.mean(1, keepdim=True)
    assert grey[labels > 0].mean() > grey[labels == 0].mean() + 0.3


def test_a_variation_depends_on_seed_and_iteration_alone():
    images, masks = scene()
    one, two = vary(images, masks, 1.0, 2, 7), vary(images, masks, 1.0, 2, 7)
    assert torch.equal(one[0], two[0]) and torch.equal(one[1], two[1])
    assert not torch.equal(one[0], vary(images, masks, 1.0, 2, 8)[0])
    assert not torch.equal(one[0], vary(images, masks, 1.0, 3, 7)[0])


def test_without_strength_there_are_flips_alone():
    images, masks = torch.rand(6, 3, 16, 16), (torch.rand(6, 1, 16, 16) > 0.5).float()
    flipped, labels, _ = vary(images, masks, 0.0, 0, 0)
    for image, mask, new, label in zip(images, masks, flipped, labels, strict=True):
        ways = [axes for axes in ((), (1,), (2,), (1, 2)) if torch.equal(image.flip(axes), new)]
        assert len(ways) == 1
        assert torch.equal(mask.flip(ways[0]), label)


@pytest.mark.parametrize("strength", [0.5, 1.0, 2.0])
def test_images_stay_in_range_and_change_more_with_strength(strength):
    images, masks = scene(32)
    moved, *_ = vary(images, masks, strength, 0, 3)
    assert moved.min() >= 0 and moved.max() <= 1
    spread = vary(images, masks, strength, 0, 3)[0].mean((1, 2, 3)).std()
    assert spread > vary(images, masks, strength / 4, 0, 3)[0].mean((1, 2, 3)).std()
