#!/usr/bin/env bash
# 3, 10 and 40 labelled cases of Hippocampus at 2 mm. Some hours on two CPU cores; stop and repeat as you like.
#   run.sh [STUDY_FOLDER]
here=$(cd "$(dirname "$0")" && pwd)
. "$here/../common.sh"
hippocampus_2mm
pretrain mrH masked_region 20 150 4 6e-3
pretrain sparkH spark 10 300 4 6e-3
pretrain mgH models_genesis 10 300 4 6e-3
pretrain byolH byol 15 100 4 3e-3 --set precision=bfloat16
pretrain vicregH vicreg 15 100 4 3e-3 --set precision=bfloat16
study "$here/label_counts.yaml" "${1:-study}"
