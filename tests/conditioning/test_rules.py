"""Laws of the rules that are learned from the annotated lesions of a data set."""

from dataclasses import replace

import numpy as np
import pytest

from diffaug.conditioning.drawer import RequestDrawer
from diffaug.conditioning.placement import field_of_view, overlays, place_free, placement_map_of
from diffaug.conditioning.rule_learning import holds, learn_rules
from diffaug.conditioning.rules import (
    ENDOSCOPIC,
    LEVELS,
    MOST_LOST,
    NAMES,
    NO_RULES,
    LearnedRules,
    Loss,
    learned_from_values,
    read_rules,
    write_rules,
)
from diffaug.config import GenerateConfig
from diffaug.data.case import Case
from diffaug.data.images import write_png
from diffaug.errors import ModelError, PlacementError

SIDE = 128


def disc(centre, radius):
    y, x = np.ogrid[:SIDE, :SIDE]
    return (y - centre[0]) ** 2 + (x - centre[1]) ** 2 <= radius**2


@pytest.fixture
def cases_of(tmp_path):
    """Write frames with masks as cases."""

    def made(frames, name="a"):
        found = []
        for index, (image, mask) in enumerate(frames):
            case = Case(
                f"{name}-{index}", tmp_path / f"{name}{index}.png", tmp_path / f"{name}{index}m.png", "g", "train"
            )
            write_png(case.image, image)
            write_png(case.mask, mask.astype(np.uint8) * 255)
            found.append(case)
        return found

    return made


def cells(seed):
    """Return a dark fluorescence frame: bright cells on black, all annotated."""
    rng = np.random.default_rng(seed)
    image, mask = rng.integers(0, 6, (SIDE, SIDE, 3)).astype(np.uint8), np.zeros((SIDE, SIDE), bool)
    for _ in range(8):
        cell = disc(rng.integers(12, SIDE - 12, 2), int(rng.integers(4, 8)))
        image[cell] = rng.integers(120, 200) + rng.integers(0, 20, (cell.sum(), 3))
        mask |= cell
    return image, mask


def tissue(seed, lesion=True):
    """Return an endoscopic frame: reddish tissue with black corners, a lesion, and a green box."""
    rng = np.random.default_rng(seed)
    image = (np.array([170, 100, 90]) + rng.integers(-6, 7, (SIDE, SIDE, 3))).astype(np.uint8)
    mask = disc((60, 70), 12)
    image[mask] = np.array([190, 80, 70]) + rng.integers(-6, 7, (mask.sum(), 3))
    image[~disc((SIDE // 2, SIDE // 2), 66)] = 2
    image[88:108, 30:50] = (20, 160, 60)
    return image, mask & lesion


def test_endoscopic_rules_hold_for_endoscopic_frames(cases_of):
    learned = learn_rules(cases_of([tissue(seed) for seed in range(8)]))
    assert learned.rules.in_force == tuple(NAMES) and learned.rules.border == ENDOSCOPIC.border
    assert learned.painted_on == learned.frames == 8
    assert "8 of 8 images with a lesion can be painted on" in learned.line()


def test_dark_is_no_border_where_cells_shine_on_black(cases_of):
    cases = cases_of([cells(seed) for seed in range(8)])
    before = [field_of_view(case.read_image()).mean() for case in cases]
    learned = learn_rules(cases)
    assert np.mean(np.array(before) < 0.05) > 0.5, "the endoscopic rule hides most of these frames"
    assert learned.rules.border is None and learned.rules.dark is None
    assert learned.painted_on == learned.frames == 8
    assert "not in force: dark border (it would hide" in learned.line() and "too dark" in learned.line()


def test_a_cell_finds_a_place_on_black(cases_of):
    cases = cases_of([cells(seed) for seed in range(6)])
    rules, shape = learn_rules(cases).rules, np.ones((9, 9), bool)
    for case in cases:
        maps = [placement_map_of(case.read_image(), case.read_mask(), rules=some) for some in (ENDOSCOPIC, rules)]
        places = [place_free(one, shape, np.random.default_rng(0)) for one in maps]
        assert places[0] is None and places[1] is not None


def test_no_rule_in_force_loses_more_than_its_share_or_a_frame(cases_of):
    frames = [tissue(seed) for seed in range(6)] + [cells(seed) for seed in range(2)]
    for name, some in (("mixed", frames), ("cells", frames[6:]), ("tissue", frames[:6])):
        cases = cases_of(some, name)
        learned = learn_rules(cases)
        lost = dict.fromkeys(("border", "coloured_boxes", "grey_boxes"), 0.0)
        for case in cases:
            image, lesion = case.read_image(), case.read_mask()
            for rule in lost:
                alone = NO_RULES.at(rule, getattr(learned.rules, rule))
                left = field_of_view(image, alone) if rule == "border" else ~overlays(image, alone)
                lost[rule] += (lesion & ~left).sum() / sum(each.read_mask().sum() for each in cases)
                assert left.mean() >= 0.05
        assert all(share <= MOST_LOST for share in lost.values()), (name, lost)


def test_one_hidden_frame_among_many_turns_a_rule_off(cases_of):
    dark = np.full((SIDE, SIDE, 3), 4, np.uint8)
    mask = disc((60, 60), 3)
    dark[mask] = 90
    cases = cases_of([*(tissue(seed) for seed in range(12)), (dark, mask)])
    learned = learn_rules(cases)
    assert learned.losses["border"].frames == 1 and learned.losses["border"].pixels <= MOST_LOST
    assert learned.rules.border is None and learned.painted_on == 13


def test_a_box_of_a_lesions_own_colour_is_no_rule(cases_of):
    frames = []
    for seed in range(6):
        image, _ = tissue(seed)
        mask = np.zeros((SIDE, SIDE), bool)
        mask[40:64, 50:80] = True
        image[mask] = (40, 60, 190)
        frames.append((image, mask))
    rules = learn_rules(cases_of(frames)).rules
    assert rules.coloured_boxes is None and rules.border == ENDOSCOPIC.border


def test_a_weaker_level_never_loses_more():
    for seed in range(4):
        image, _ = tissue(seed)
        image[10:60, 60:100] //= 8
        for rule, levels in LEVELS.items():
            if rule == "text":
                continue
            left = [field_of_view(image, NO_RULES.at(rule, level)) for level in levels]
            areas = [part.mean() for part in left]
            assert areas == sorted(areas)


def test_a_rule_is_never_in_force_again_when_it_loses_more():
    losses = [Loss(pixels, frames) for pixels in (0.0, 0.01, 0.02, 0.0201, 0.5) for frames in (0, 1)]
    for one in losses:
        worse = [two for two in losses if two.pixels >= one.pixels and two.frames >= one.frames]
        assert holds(one) or not any(holds(two) for two in worse)
    assert holds(Loss(MOST_LOST, 0)) and not holds(Loss(0.0, 1)) and not holds(Loss(0.021, 0))


def test_the_order_of_cases_does_not_matter(cases_of):
    cases = cases_of([*(tissue(seed) for seed in range(4)), *(cells(seed) for seed in range(4))])
    assert learn_rules(cases) == learn_rules(cases[::-1])


def test_without_a_lesion_the_rules_are_those_of_endoscopy(cases_of):
    [case] = cases_of([tissue(0)])
    assert learn_rules([]) == LearnedRules()
    assert learn_rules([replace(case, mask=None)]).rules == ENDOSCOPIC


def test_rules_survive_their_file_and_a_model_without_one_is_endoscopic(cases_of, tmp_path):
    learned = learn_rules(cases_of([cells(seed) for seed in range(4)]))
    assert learned_from_values(learned.as_dict()) == learned
    assert read_rules(tmp_path).rules == ENDOSCOPIC and "before rules were learned" in read_rules(tmp_path).line()
    write_rules(tmp_path, learned)
    assert read_rules(tmp_path) == learned
    (tmp_path / "rules.json").write_text("[]")
    with pytest.raises(ModelError, match="fit the model again"):
        read_rules(tmp_path)


def test_frames_that_cannot_be_painted_on_are_an_error_whose_remedy_works(cases_of):
    cases = cases_of([cells(seed) for seed in range(6)])
    config = GenerateConfig(negatives=0.0, lesions_per_case=1)
    with pytest.raises(PlacementError, match="none of 6 does, such as a-0; fit a model on these cases"):
        RequestDrawer(cases, 0, config).draw(0)
    drawer = RequestDrawer(cases, 0, config, rules=learn_rules(cases).rules)
    assert drawer.backgrounds.paintable() == [case.id for case in cases]
    backgrounds = {drawer.draw(index).background for index in range(24)}
    assert len(backgrounds) >= 5


def test_contrast_is_measured_against_black_where_black_is_tissue(cases_of):
    cases = cases_of([cells(seed) for seed in range(4)])
    learned = RequestDrawer(cases, 0, GenerateConfig(), rules=learn_rules(cases).rules)
    endoscopic = RequestDrawer(cases, 0, GenerateConfig())
    name = cases[0].id
    assert learned.examples.attributes[name].lightness_contrast > 30
    assert endoscopic.examples.attributes[name].lightness_contrast < 30
