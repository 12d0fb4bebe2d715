#!/bin/sh
# Every stage on phantom images with tiny settings: does it run? Two minutes. Usage: runs/smoke.sh OUT
set -eu
OUT=${1:?usage: runs/smoke.sh OUT}

diffaug data phantom "$OUT/full" --train 16 --val 2 --test 8 --unannotated 4 --size 128
diffaug data inspect "$OUT/full" --out "$OUT/cases.png"
diffaug data subset "$OUT/full" "$OUT/data" --annotated 12

diffaug fit "$OUT/data" "$OUT/model" --preset smoke
diffaug generate "$OUT/model" "$OUT/data" "$OUT/synthetic" --preset smoke --gate off
diffaug study "$OUT/data" "$OUT/study" --synthetic "$OUT/synthetic" --preset smoke
diffaug report "$OUT/study" --synthetic "$OUT/synthetic"
