#!/bin/sh
# Do lesions help that are painted onto normal images? BUSI, 50 and 25 annotated lesions, three draws, and normal images.
# Usage: runs/busi_study.sh OUT [FROM] [diffaug run options, such as --budget 180]
# FROM: BUSI in folders (docs/datasets.md). The default is $DIFFAUG_DATA/busi.
# Unannotated are the normal images alone, which every arm but real may use: lesions are pasted or painted onto them, and
# in mean-teacher they are training cases without a lesion. It is tested on lesions and on normal images, where whatever
# is found is a false alarm.
# For a part of the table add, for example, --annotated 50 --draws 0 --arms real copy-paste.
# After a stop the same command continues: what docs/results/busi_study.jsonl records is not repeated.
set -eu
OUT=${1:?usage: runs/busi_study.sh OUT [FROM] [OPTIONS]}
shift
case ${1:--} in
  -*) FROM=${DIFFAUG_DATA:?set DIFFAUG_DATA to the folder that holds busi, or name FROM}/busi ;;
  *) FROM=$1; shift ;;
esac
mkdir -p "$OUT"
cat > "$OUT/busi_study.yaml" <<YAML
preset: default
out: "$OUT"
records: "$(dirname "$0")/../docs/results/busi_study.jsonl"
data:
  source: busi
  path: "$FROM"
  annotated: [50, 25]
  draws: [0, 1, 2]
  unannotated: lesion-free
  painted_per_real: 4
  test: [val, test]
study:
  arms: [real, copy-paste, mean-teacher, unfiltered, selected, selected+mean-teacher, oracle]
YAML
diffaug run "$OUT/busi_study.yaml" "$@"
