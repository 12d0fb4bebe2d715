#!/bin/sh
# Drishti-GS with 25 annotated crops, the rest of train unannotated: does painting discs and cups help?
# Usage: runs/drishti.sh OUT [FROM]    FROM: images/, masks/ and labels.csv; $DIFFAUG_DATA/drishti-gs unset
# Two classes are painted and segmented, the disc and the cup in it; the study tells the Dice of each and the error of
# the vertical cup-to-disc ratio.
# An eye has one disc, which is repainted where it is, with a cup of another size.
# Run it again after a kill: it goes on where it was.
# $PRESET, $ANNOTATED and $GENERATE (more options of generate) change the size of the run.
set -eu
OUT=${1:?usage: runs/drishti.sh OUT [FROM]}
FROM=${2:-${DIFFAUG_DATA:?set DIFFAUG_DATA to the folder that holds drishti-gs, or name FROM}/drishti-gs}
PRESET=${PRESET:-default}

# 1. Data: import, look, keep 25 annotations.
diffaug data import drishti-gs "$FROM" "$OUT/full"
diffaug data inspect "$OUT/full" --out "$OUT/cases.png"
diffaug data subset "$OUT/full" "$OUT/data" --annotated "${ANNOTATED:-25}" --draw 0

# 2. A painter, its validators and their thresholds; with a low strength the vessels of an eye keep their course.
diffaug fit "$OUT/data" "$OUT/model" --preset "$PRESET" --sampler.strength 0.05

# 3. Paint as many cases as the preset asks for.
diffaug generate "$OUT/model" "$OUT/data" "$OUT/synthetic" --preset "$PRESET" --place replace ${GENERATE:-}

# 4. Did it help? Paired seeds; ten crops to test on tell little.
diffaug study "$OUT/data" "$OUT/study" --synthetic "$OUT/synthetic" --preset "$PRESET"
diffaug report "$OUT/study" --synthetic "$OUT/synthetic"
