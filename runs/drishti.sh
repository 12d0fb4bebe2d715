#!/bin/sh
# Drishti-GS with 25 annotated crops, the rest of train unannotated: does painting discs and cups help?
# Usage: runs/drishti.sh OUT [FROM]    FROM: images/, masks/ and labels.csv; by default $DIFFAUG_DATA/drishti-gs
# Two classes are painted and segmented: the disc, and the cup in it. The study reports the Dice of each class and the
# error of the vertical cup-to-disc ratio.
# An image has one disc. It is painted again in its place, with a cup of another size.
# After a stop the same command continues.
# $PRESET, $ANNOTATED and $GENERATE (more options of generate) change the size of the run.
set -eu
OUT=${1:?usage: runs/drishti.sh OUT [FROM]}
FROM=${2:-${DIFFAUG_DATA:?set DIFFAUG_DATA to the folder that holds drishti-gs, or name FROM}/drishti-gs}
PRESET=${PRESET:-default}

# 1. Import the data, inspect them, and keep 25 annotations.
diffaug data import drishti-gs "$FROM" "$OUT/full"
diffaug data inspect "$OUT/full" --out "$OUT/cases.png"
diffaug data subset "$OUT/full" "$OUT/data" --annotated "${ANNOTATED:-25}" --draw 0

# 2. Fit a painter, its validators and their thresholds; a low strength keeps the vessels of the image.
diffaug fit "$OUT/data" "$OUT/model" --preset "$PRESET" --sampler.strength 0.05

# 3. Paint as many cases as the preset asks for.
diffaug generate "$OUT/model" "$OUT/data" "$OUT/synthetic" --preset "$PRESET" --place replace ${GENERATE:-}

# 4. Did it help? Paired seeds. Ten test images give wide intervals.
diffaug study "$OUT/data" "$OUT/study" --synthetic "$OUT/synthetic" --preset "$PRESET"
diffaug report "$OUT/study" --synthetic "$OUT/synthetic"
