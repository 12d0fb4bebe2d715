#!/bin/sh
# CVC-ClinicDB with 100 annotated frames, the rest of train unannotated: does painting polyps help?
# Usage: runs/clinicdb.sh FROM OUT    FROM: CVC-ClinicDB as published, or a mirror of it (docs/datasets.md)
# No sequence crosses a split, and whole sequences are annotated: 100 frames are about four polyps.
# At most an hour on two cores. After a stop the same command continues.
# $PRESET, $ANNOTATED (80 or more) and $GENERATE (more options of generate) change the size of the run.
set -eu
FROM=${1:?usage: runs/clinicdb.sh FROM OUT}
OUT=${2:?usage: runs/clinicdb.sh FROM OUT}
PRESET=${PRESET:-default}

# 1. Import the data, inspect them, and keep 100 annotations.
diffaug data import cvc-clinicdb "$FROM" "$OUT/full"
diffaug data inspect "$OUT/full" --out "$OUT/cases.png"
diffaug data subset "$OUT/full" "$OUT/data" --annotated "${ANNOTATED:-100}" --draw 0

# 2. Fit a painter, its validators and their thresholds. One sequence of the four chooses the checkpoint of the painter.
diffaug fit "$OUT/data" "$OUT/model" --preset "$PRESET"

# 3. Paint as many cases as the preset asks for.
diffaug generate "$OUT/model" "$OUT/data" "$OUT/synthetic" --preset "$PRESET" ${GENERATE:-}

# 4. Did it help? Paired seeds, held-out sequences.
diffaug study "$OUT/data" "$OUT/study" --synthetic "$OUT/synthetic" --preset "$PRESET"
diffaug report "$OUT/study" --synthetic "$OUT/synthetic"
