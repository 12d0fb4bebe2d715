#!/bin/sh
# Do painted lesions help, where, and by how much? Kvasir-SEG, 25 and 50 annotated cases, three draws, val and test as test.
# Usage: runs/kvasir_study.sh OUT [FROM] [diffaug run options, such as --budget 180]
# FROM: Kvasir-SEG as published or in split folders. The default is $DIFFAUG_DATA/kvasir-seg.
# For a part of the table add, for example, --annotated 50 --draws 0 --arms real oracle.
# The first records are of --network unet; without it the network is the default one.
# After a stop the same command continues: what docs/results/kvasir_study.jsonl records is not repeated.
set -eu
OUT=${1:?usage: runs/kvasir_study.sh OUT [FROM] [OPTIONS]}
shift
case ${1:--} in
  -*) FROM=${DIFFAUG_DATA:?set DIFFAUG_DATA to the folder that holds kvasir-seg, or name FROM}/kvasir-seg ;;
  *) FROM=$1; shift ;;
esac
mkdir -p "$OUT"
cat > "$OUT/kvasir_study.yaml" <<YAML
preset: default
out: "$OUT"
records: "$(dirname "$0")/../docs/results/kvasir_study.jsonl"
data:
  source: kvasir-seg
  path: "$FROM"
  annotated: [50, 25]
  draws: [0, 1, 2]
  painted_per_real: 6
  backgrounds: pseudo-labelled
  test: [val, test]
  allow_duplicates: true  # one test image, val-67, shows the frame of a training image; its report says so
generate:
  domain: generic
  negatives: 0.5
study:
  synthetic_per_real: 3
  arms: [real, copy-paste, pseudo-label, mean-teacher, unfiltered, random-kept, fixed-threshold, validated, selected,
         no-negatives, selected+pseudo-label, selected+mean-teacher, "selected@0.5", "selected@1", "selected@6", oracle]
YAML
diffaug run "$OUT/kvasir_study.yaml" "$@"
