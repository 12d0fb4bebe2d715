"""Text in frames: what a recorder writes over the tissue, found in one frame or at one place of many.

Level rows of pale strokes are text, rows of marks of one height are, and so are strokes that many frames have at the
same place.
"""

from collections.abc import Iterable

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage, stats
from scipy.sparse import csgraph

from diffaug.conditioning.attributes import Values, lab_from_rgb
from diffaug.conditioning.rules import ENDOSCOPIC, FrameRules
from diffaug.data.images import Mask, Pixels
from diffaug.data.lesions import CORNERS

STROKE, PALE_INK, DIM = 9.0, 25.0, 40.0  # L* above the surroundings, largest chroma, least L* of written strokes
INK, LEAST_INK = 30.0, 110.0  # of 255; the weakest channel of letters above the surroundings, and at least
STROKE_WIDTH = 0.06  # of a lesion's diameter; strokes drawn across it are no wider than about twice that
MARK, MARK_WIDTH = (
    130.0,
    7,
)  # grey levels by which marks are lighter than tissue, and the px that a stroke is narrower than
DRAWN = 18.0  # of 255; lines that are drawn across a lesion are so much lighter than what surrounds them
LETTERS = 4  # marks that make a line
FEWER = 3  # that make one where nothing is lost but some tissue to be shown elsewhere
LEVEL, APART = 0.12, 1.2  # of a letter's height; by which tops and bottoms differ, and the gap to the next, at most
CHANCE = 1e-3  # of the places at which strokes of several frames coincide without being printed
SAMPLE, LEAST_SAMPLE = 60, 12  # frames that are compared for that, at most; fewer than the second prove nothing
BLOCK = 0.045  # of a frame's longest side; so far above and below text may be more of it
ALONG = 0.1  # of it; so far beside text may be more


def raised(values: NDArray[np.float32], width: int) -> NDArray[np.float32]:
    """Return by how much marks narrower than a width (px) are lighter than what surrounds them, (H, W)."""
    return np.asarray(values - ndimage.grey_opening(values, (width, width)), dtype=np.float32)


def strokes(lab: Values) -> Mask:
    """Find thin pale marks that are lighter than what surrounds them, from CIELAB, shape (H, W)."""
    width = 2 * max(1, round(max(lab.shape[:2]) / 88)) + 1
    light = raised(lab[..., 0], width) > STROKE
    return np.asarray(light & (lab[..., 0] > DIM) & (np.hypot(lab[..., 1], lab[..., 2]) < PALE_INK))


def stroke_shares(images: Iterable[Pixels]) -> NDArray[np.float32] | None:
    """Return the share of frames of one size that have a stroke at each pixel, (H, W); 0 where that may be by chance.

    None for too few frames.
    """
    marks = [ndimage.binary_dilation(strokes(lab_from_rgb(image)), CORNERS) for image in images]
    if len(marks) < LEAST_SAMPLE:
        return None
    shares = np.mean(marks, axis=0, dtype=np.float32)
    return np.where(shares >= by_chance(len(marks), float(shares.mean())), shares, np.float32(0.0))


def printed_on(images: Iterable[Pixels], rules: FrameRules = ENDOSCOPIC) -> Mask | None:
    """Find where many frames have a stroke: text and marks of the recorder, which stand still while tissue moves.

    Args:
        images: Frames of one size; a few dozen will do.
        rules: What is in force.

    Returns:
        Shape (H, W); None for fewer than LEAST_SAMPLE frames, which prove nothing, and where text is no rule.
    """
    return None if rules.text is None else printed_at(stroke_shares(images), rules.text)


def printed_at(shares: NDArray[np.float32] | None, least: float) -> Mask | None:
    """Return where at least a share of the frames has a stroke, with a margin."""
    if shares is None:
        return None
    height = max(1, round(max(shares.shape) / 176))
    return np.asarray(ndimage.binary_dilation(shares >= least, CORNERS, iterations=height))


def by_chance(frames: int, share: float) -> float:
    """Return the share of some frames that have a stroke at one place by chance, in 1 of 1,000 places at most.

    Highlights are strokes, too: of few frames several have one at the same place (binomial distribution).

    Args:
        frames: Their number.
        share: Of the pixels of a frame that are strokes.
    """
    return float(stats.binom.ppf(1 - CHANCE, frames, share) + 1) / frames


def writing(image: Pixels, lab: Values, printed: Mask | None = None) -> Mask:
    """Find text, shape (H, W): strokes in level rows, lines of letters, and strokes that are printed on many frames.

    Args:
        image: The frame, (H, W, 3).
        lab: The same in CIELAB.
        printed: Where many frames have a stroke, from `printed_on`; None if that is not known.
    """
    ink = strokes(lab)
    unit = max(lab.shape[:2]) / 352  # px of a frame in which a line of text is about 7 px high
    pad, reach = round(8 * unit), 2 * round(3 * unit) + 1
    rows_of_ink = ndimage.binary_closing(np.pad(ink, pad), np.ones((1, reach)))[pad:-pad, pad:-pad]
    labels, _ = ndimage.label(rows_of_ink, structure=CORNERS)
    text = ndimage.binary_dilation(ink & printed, CORNERS) if printed is not None else np.zeros(ink.shape, dtype=bool)
    for index, (rows, columns) in enumerate(ndimage.find_objects(labels), start=1):
        height, width = rows.stop - rows.start, columns.stop - columns.start
        level = 4 * unit <= height <= 12 * unit and width >= 2.5 * height
        if level and (labels[rows, columns] == index).mean() > 0.62:
            text[max(0, rows.start - 1) : rows.stop + 1, max(0, columns.start - 1) : columns.stop + 1] = True
    return np.asarray(text | lines_of_letters(image))


def lines_of_letters(image: Pixels, letters: int = LETTERS) -> Mask:
    """Find lines of text, boxed, (H, W): rows of at least some `letters`, marks of one height, white on any tissue.

    White differs from tissue in its weakest channel, even from pale or yellow tissue that is as light.
    """
    unit = max(image.shape[:2]) / 352
    weakest = ndimage.gaussian_filter(image.min(axis=2).astype(np.float32), 0.5)
    width = 2 * max(1, round(4 * unit)) + 1
    ink = (raised(weakest, width) > INK) & (weakest > LEAST_INK)
    labels, _ = ndimage.label(ink, structure=CORNERS)
    marks = [(rows.start, rows.stop, columns.start, columns.stop) for rows, columns in ndimage.find_objects(labels)]
    top, bottom, left, right = np.array(marks, dtype=np.int64).reshape(-1, 4).T
    height, letter = bottom - top, (3.5 * unit, 12 * unit)
    like = (height >= letter[0]) & (height <= letter[1]) & (right - left <= letter[1])
    top, bottom, left, right, height = (values[like] for values in (top, bottom, left, right, height))
    text = np.zeros(image.shape[:2], dtype=bool)
    if not like.any():
        return text
    smaller = np.minimum.outer(height, height)
    level = np.maximum(*(abs(np.subtract.outer(ends, ends)) for ends in (top, bottom))) <= 1 + LEVEL * smaller
    near = np.maximum.outer(left, left) - np.minimum.outer(right, right) <= APART * smaller
    count, line = csgraph.connected_components(level & near, directed=False)
    for number in np.flatnonzero(np.bincount(line, minlength=count) >= letters):
        of = line == number
        text[top[of].min() : bottom[of].max(), left[of].min() : right[of].max()] = True
    return text


def longest_line(image: Pixels, lesion: Mask) -> float:
    """Return the length of the longest straight line drawn across a lesion, over its diameter; 0 for none.

    Calipers of an ultrasound scanner are such lines, solid or dotted. They count as far as they are marks that are
    lighter than what surrounds them.

    Args:
        image: Shape (H, W, 3).
        lesion: Shape (H, W), not empty.
    """
    from skimage.transform import probabilistic_hough_line

    diameter = float(np.sqrt(4 * lesion.sum() / np.pi))
    width = 2 * max(1, round(STROKE_WIDTH * diameter)) + 1
    weakest = image.min(axis=2).astype(np.float32)
    inside = ndimage.binary_erosion(lesion, iterations=max(1, round(0.06 * diameter)))  # beyond the crop is no lesion
    ink = (raised(weakest, width) > DRAWN) & inside
    least, gap = max(3, round(0.45 * diameter)), max(3, round(0.06 * diameter))
    lines = probabilistic_hough_line(ink, max(5, least // 4), least, gap, np.linspace(-np.pi / 2, np.pi / 2, 90), rng=0)
    longest = 0.0
    for (left, top), (right, bottom) in lines:
        length = float(np.hypot(right - left, bottom - top))
        rows = np.rint(np.linspace(top, bottom, round(length) + 1)).astype(int)
        columns = np.rint(np.linspace(left, right, round(length) + 1)).astype(int)
        longest = max(longest, length / diameter * float(ink[rows, columns].mean()))
    return longest


def marks_on(image: Pixels, lesion: Mask) -> float:
    """Return the number of a lesion's pixels that are far lighter than what surrounds them, over its diameter in px.

    The crosses and numbers of calipers are such pixels, and so are the lines of a box.

    Args:
        image: Shape (H, W, 3).
        lesion: Shape (H, W), not empty.
    """
    drawn = raised(image.min(axis=2).astype(np.float32), MARK_WIDTH) > MARK
    return float(np.count_nonzero(drawn & lesion) / np.sqrt(4 * np.count_nonzero(lesion) / np.pi))


def unwritten(image: Pixels, field: Mask, rules: FrameRules = ENDOSCOPIC) -> Mask:
    """Return the tissue of a frame that may be shown elsewhere, (H, W): none that is written on, nor beside a line.

    Lines of text stand in blocks, and a pale one on pale tissue, or a short word of one, may not be found.

    Args:
        image: Shape (H, W, 3).
        field: Its field of view, (H, W).
        rules: What is in force.
    """
    if rules.text is None:
        return field
    text, longest = writing(image, lab_from_rgb(image)) | lines_of_letters(image, FEWER), max(field.shape)
    high, wide = (2 * round(share * longest) + 1 for share in (BLOCK, ALONG))
    return np.asarray(field & ~ndimage.maximum_filter(text, (high, wide)))
