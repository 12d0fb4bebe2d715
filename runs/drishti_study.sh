#!/bin/sh
# Do painted discs and cups help? Drishti-GS, 10 and 25 annotated images, pooled over five folds of all 50.
# Usage: runs/drishti_study.sh OUT [FROM] [diffaug run options, such as --annotated 10]
# FROM: images/, masks/ and labels.csv. The default is $DIFFAUG_DATA/drishti-gs.
# An image has one disc. It is painted again in its place, with a cup of another size; a low strength keeps the vessels.
# The first records are of --network unet; without it the network is the default one.
# After a stop the same command continues: what docs/results/drishti_study.jsonl records is not repeated.
set -eu
OUT=${1:?usage: runs/drishti_study.sh OUT [FROM] [OPTIONS]}
shift
case ${1:--} in
  -*) FROM=${DIFFAUG_DATA:?set DIFFAUG_DATA to the folder that holds drishti-gs, or name FROM}/drishti-gs ;;
  *) FROM=$1; shift ;;
esac
mkdir -p "$OUT"
if [ ! -f "$OUT/all/cases.csv" ]; then
  diffaug data import drishti-gs "$FROM" "$OUT/all" >&2
  sed -i -E 's/,(val|test),/,train,/' "$OUT/all/cases.csv"  # every image is tested once, in its fold
fi
cat > "$OUT/drishti_study.yaml" <<YAML
preset: default
out: "$OUT"
records: "$(dirname "$0")/../docs/results/drishti_study.jsonl"
data:
  source: folder
  path: "$OUT/all"
  annotated: [10, 25]
  draws: [0]
  folds: 5
  painted_per_real: 6
fit:
  sampler:
    strength: 0.2
generate:
  place: replace
study:
  iterations: 2000
  synthetic_per_real: 3
  arms: [real, copy-paste, pseudo-label, unfiltered, selected, selected+pseudo-label, oracle]
YAML
diffaug run "$OUT/drishti_study.yaml" "$@"
