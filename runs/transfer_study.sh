#!/bin/sh
# Do painted polyps help in another hospital? Trained on Kvasir-SEG, 50 annotated cases, three draws, tested on all of
# CVC-ClinicDB.
# Usage: runs/transfer_study.sh OUT [FROM [OTHER]] [diffaug run options, such as --budget 180]
# FROM: Kvasir-SEG, OTHER: CVC-ClinicDB. The defaults are $DIFFAUG_DATA/kvasir-seg and $DIFFAUG_DATA/cvc-clinicdb.
# After a stop the same command continues: what docs/results/transfer_study.jsonl records is not repeated.
set -eu
OUT=${1:?usage: runs/transfer_study.sh OUT [FROM [OTHER]] [OPTIONS]}
shift
case ${1:--} in
  -*) FROM=${DIFFAUG_DATA:?set DIFFAUG_DATA to the folder that holds kvasir-seg, or name FROM}/kvasir-seg ;;
  *) FROM=$1; shift ;;
esac
case ${1:--} in
  -*) OTHER=${DIFFAUG_DATA:?set DIFFAUG_DATA to the folder that holds cvc-clinicdb, or name OTHER}/cvc-clinicdb ;;
  *) OTHER=$1; shift ;;
esac
mkdir -p "$OUT"
if [ ! -f "$OUT/clinicdb/cases.csv" ]; then
  diffaug data import cvc-clinicdb "$OTHER" "$OUT/clinicdb" >&2
  sed -i -E 's/,(train|val|test),/,test,/' "$OUT/clinicdb/cases.csv"  # every frame is tested
fi
cat > "$OUT/transfer_study.yaml" <<YAML
preset: default
out: "$OUT"
records: "$(dirname "$0")/../docs/results/transfer_study.jsonl"
data:
  source: kvasir-seg
  path: "$FROM"
  annotated: [50]
  draws: [0, 1, 2]
  painted_per_real: 6
  backgrounds: pseudo-labelled
  test: ["$OUT/clinicdb"]
generate:
  negatives: 0.5
study:
  synthetic_per_real: 3
  arms: [real, copy-paste, pseudo-label, mean-teacher, selected, selected+pseudo-label, selected+mean-teacher, oracle]
YAML
diffaug run "$OUT/transfer_study.yaml" "$@"
