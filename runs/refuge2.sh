#!/bin/sh
# REFUGE with 100 annotated photographs, the rest of train unannotated: does painting discs and cups help?
# Usage: runs/refuge2.sh FROM OUT    FROM: REFUGE as published, or a mirror of it (docs/datasets.md)
# Two classes are painted and segmented: the disc, and the cup in it. The study reports the Dice of each class and the
# error of the vertical cup-to-disc ratio.
# The images are crops around the disc, which is found by its brightness, without its mask. SOURCE=refuge2 takes whole
# photographs.
# An image has one disc. It is painted again in its place, with a cup of another size.
# After a stop the same command continues.
# $PRESET, $ANNOTATED and $GENERATE (more options of generate) change the size of the run.
set -eu
FROM=${1:?usage: runs/refuge2.sh FROM OUT}
OUT=${2:?usage: runs/refuge2.sh FROM OUT}
PRESET=${PRESET:-default}

# 1. Import the data, inspect them, and keep 100 annotations.
diffaug data import "${SOURCE:-refuge2-crops}" "$FROM" "$OUT/full"
diffaug data inspect "$OUT/full" --out "$OUT/cases.png"
diffaug data subset "$OUT/full" "$OUT/data" --annotated "${ANNOTATED:-100}" --draw 0

# 2. Fit a painter, its validators and their thresholds; a low strength keeps the vessels of the image.
diffaug fit "$OUT/data" "$OUT/model" --preset "$PRESET" --sampler.strength 0.05

# 3. Paint as many cases as the preset asks for.
diffaug generate "$OUT/model" "$OUT/data" "$OUT/synthetic" --preset "$PRESET" --place replace ${GENERATE:-}

# 4. Did it help? Paired seeds, the published test images.
diffaug study "$OUT/data" "$OUT/study" --synthetic "$OUT/synthetic" --preset "$PRESET"
diffaug report "$OUT/study" --synthetic "$OUT/synthetic"
