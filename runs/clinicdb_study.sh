#!/bin/sh
# Do painted polyps help? CVC-ClinicDB, 80 annotated frames of whole sequences, three draws, test sequences apart.
# Usage: runs/clinicdb_study.sh OUT [FROM] [diffaug run options, such as --budget 180]
# FROM: CVC-ClinicDB as published, or a mirror of it (docs/datasets.md). The default is $DIFFAUG_DATA/cvc-clinicdb.
# No sequence crosses a split, and whole sequences are annotated: 80 frames are about four polyps.
# For a part of the table add, for example, --draws 0 --arms real copy-paste.
# After a stop the same command continues: what docs/results/clinicdb_study.jsonl records is not repeated.
set -eu
OUT=${1:?usage: runs/clinicdb_study.sh OUT [FROM] [OPTIONS]}
shift
case ${1:--} in
  -*) FROM=${DIFFAUG_DATA:?set DIFFAUG_DATA to the folder that holds cvc-clinicdb, or name FROM}/cvc-clinicdb ;;
  *) FROM=$1; shift ;;
esac
mkdir -p "$OUT"
cat > "$OUT/clinicdb_study.yaml" <<YAML
preset: default
out: "$OUT"
records: "$(dirname "$0")/../docs/results/clinicdb_study.jsonl"
data:
  source: cvc-clinicdb
  path: "$FROM"
  annotated: [80]
  draws: [0, 1, 2]
  painted_per_real: 3
  test: [val, test]
study:
  arms: [real, copy-paste, pseudo-label, mean-teacher, selected, selected+mean-teacher, oracle]
YAML
diffaug run "$OUT/clinicdb_study.yaml" "$@"
