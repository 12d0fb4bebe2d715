import numpy as np
import pytest
from PIL import Image, ImageDraw
from scipy import ndimage

from diffaug.conditioning.attributes import lab_from_rgb
from diffaug.conditioning.flaws import MARKED, MEASURED
from diffaug.conditioning.rules import ENDOSCOPIC
from diffaug.conditioning.writing import lines_of_letters, longest_line, marks_on, printed_on, unwritten, writing


def found_in(frame, printed=None):
    return writing(frame, lab_from_rgb(frame), printed)


def test_marks_that_stand_still_are_print_and_those_that_move_are_not():
    rng, dot = np.random.default_rng(1), (slice(200, 203), slice(40, 43))
    frames = [rng.normal((150, 80, 70), 4, (352, 352, 3)).clip(0, 255).astype(np.uint8) for _ in range(12)]
    for frame in frames:
        frame[dot] = 225
        row, column = rng.integers(250, 350), rng.integers(100, 350)
        frame[row : row + 3, column : column + 3] = 225
    printed = printed_on(frames)
    assert printed[dot].all() and printed.mean() < 0.002
    assert found_in(frames[0], printed)[dot].all() and not found_in(frames[0])[dot].any()
    assert printed_on(frames[:11]) is None


def test_few_frames_with_highlights_at_one_place_show_no_print():
    rng = np.random.default_rng(0)
    frames = np.full((24, 176, 176, 3), (150, 90, 80), np.uint8)
    for frame in frames:  # highlights anywhere, as wet tissue has them, and a mark of the recorder at one place
        for row, column in rng.integers(30, 170, (110, 2)):
            frame[row : row + 2, column : column + 2] = 235
        frame[10:12, 10:20] = 235
    printed = printed_on(frames)
    assert printed[10:12, 10:20].all()
    assert printed[40:160, 40:160].mean() < 0.02


def tissue(colour, rng):
    return rng.normal(colour, 4, (264, 352, 3)).clip(0, 255).astype(np.uint8)


def written(image, text, at):
    picture = Image.fromarray(image)
    ImageDraw.Draw(picture).text(at, text, fill=(255, 255, 255))
    return np.asarray(picture)


@pytest.mark.parametrize("colour", [(150, 80, 70), (235, 160, 150), (250, 225, 150)])  # red, pale, and yellow as lamps
def test_white_letters_are_found_on_tissue_of_any_lightness(colour):
    image = written(tissue(colour, np.random.default_rng(0)), "08032013 CVP 5", (12, 60))
    found = lines_of_letters(image)
    assert found[62:70, 14:50].mean() > 0.9
    assert not found[:55].any() and not found[80:].any()


def test_highlights_of_any_size_are_no_letters():
    rng = np.random.default_rng(1)
    image = tissue((150, 80, 70), rng)
    for row, column in rng.integers(10, 240, (120, 2)):
        height, width = rng.integers(2, 12, 2)
        image[row : row + height, column : column + width] = 245
    assert lines_of_letters(image).mean() < 0.01


def test_no_tissue_beside_text_is_shown_elsewhere_and_none_is_lost_without_the_rule():
    image = written(tissue((150, 80, 70), np.random.default_rng(0)), "08032013", (12, 60))
    field = np.ones((264, 352), bool)
    shown = unwritten(image, field)
    assert not shown[55:80, 5:70].any() and shown[120:].all() and shown[:, 120:].all()
    assert not shown[55:80, 70:90].any()  # where another word of the line may stand
    assert unwritten(image, field, ENDOSCOPIC.at("text", None)) is field


def test_a_word_of_three_letters_is_not_shown_elsewhere():
    image = written(tissue((150, 80, 70), np.random.default_rng(0)), "083", (120, 160))
    assert not unwritten(image, np.ones((264, 352), bool))[160:174, 110:150].any()
    assert not lines_of_letters(image).any()


@pytest.mark.parametrize(("dotted", "angle"), [(False, 20), (True, 20), (False, 90), (True, 75)])
def test_calipers_across_a_grey_lesion_are_found(ellipse_in, dotted, angle):
    lesion, image = scan(ellipse_in)
    step = 34 * np.array([np.sin(np.deg2rad(angle)), np.cos(np.deg2rad(angle))])
    for share in np.linspace(-1, 1, 23 if dotted else 101):  # dots of 2 px, one in 3 px is free
        row, column = np.rint([60 + share * step[0], 80 + share * step[1]]).astype(int)
        image[row : row + 2, column : column + 2] = 210
    assert longest_line(image, lesion) > MEASURED


def test_speckle_and_a_bright_wall_are_no_calipers(ellipse_in):
    lesion, image = scan(ellipse_in)
    wall = lesion & ~ndimage.binary_erosion(lesion, iterations=2)
    image[wall] = 200
    assert longest_line(image, lesion) < 0.3


def scan(ellipse_in):
    lesion = ellipse_in((120, 160), (60, 80), (30, 34))
    rng = np.random.default_rng(0)
    speckle = ndimage.gaussian_filter(rng.normal(0, 14, lesion.shape), 1.0)
    image = np.clip(np.where(lesion, 40, 110) + speckle, 0, 255).astype(np.uint8)
    return lesion, np.repeat(image[..., None], 3, 2)


def test_short_calipers_are_marks_and_speckle_is_none():
    rows, columns = np.mgrid[:64, :64] - 32
    lesion = np.hypot(rows, columns) <= 24
    speckle = np.random.default_rng(0).normal(60, 15, lesion.shape).clip(0, 255)
    frame = np.repeat(speckle[..., None], 3, axis=2).astype(np.uint8)
    assert marks_on(frame, lesion) == 0.0
    for row, column in ((26, 24), (30, 36)):
        frame[row - 4 : row + 5, column] = frame[row, column - 4 : column + 5] = 230
    assert marks_on(frame, lesion) > MARKED
