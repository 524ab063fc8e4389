#!/usr/bin/env bash
# The recipe at full resolution: Hippocampus at 1 mm, five labelled cases. About two hours on two CPU cores; stop and repeat
# as you like.
#   run.sh [STUDY_FOLDER]
here=$(cd "$(dirname "$0")" && pwd)
. "$here/../common.sh"
hippocampus_1mm
pretrain mrF masked_region 20 75 4 6e-3
study "$here/study.yaml" "${1:-full_resolution_study}"
