#!/bin/sh
# Kvasir-SEG with 100 annotated cases, the rest of train unannotated, val as test: does painting lesions help?
# Usage: runs/kvasir.sh OUT [FROM]    FROM: Kvasir-SEG as published or in split folders; by default
# $DIFFAUG_DATA/kvasir-seg
# At most an hour on two cores. After a stop the same command continues.
set -eu
OUT=${1:?usage: runs/kvasir.sh OUT [FROM]}
FROM=${2:-${DIFFAUG_DATA:?set DIFFAUG_DATA to the folder that holds kvasir-seg, or name FROM}/kvasir-seg}

# 1. Import the data, inspect them, and keep 100 annotations.
diffaug data import kvasir-seg "$FROM" "$OUT/full"
diffaug data inspect "$OUT/full" --out "$OUT/cases.png"
diffaug data subset "$OUT/full" "$OUT/data" --annotated 100 --draw 0

# 2. Fit a painter, its validators and their thresholds, from those 100 and the unannotated images.
diffaug fit "$OUT/data" "$OUT/model"

# 3. Paint until 200 cases are kept.
diffaug generate "$OUT/model" "$OUT/data" "$OUT/synthetic" --count 200

# 4. Did it help? Three arms, paired seeds, 100 held-out real images.
diffaug study "$OUT/data" "$OUT/study" --synthetic "$OUT/synthetic" --test val
diffaug report "$OUT/study" --synthetic "$OUT/synthetic"
