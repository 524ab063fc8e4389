#!/usr/bin/env bash
# How long to pretrain: snapshots of one pretraining on Hippocampus at 2 mm, fine-tuned with five labelled cases. Stop and
# repeat as you like.
#   run.sh [STUDY_FOLDER]
here=$(cd "$(dirname "$0")" && pwd)
. "$here/../common.sh"
hippocampus_2mm
pretrain mrS masked_region 20 150 4 6e-3 --snapshots 0 100 300 1000
for seed in 1 2 3; do  # untrained weights through the same path
    pretrain rnd$seed masked_region 1 1 2 6e-3 --snapshots 0 --set seed=$seed
done
for seed in 1 2; do  # two more pretrainings
    pretrain mrT$seed masked_region 20 150 4 6e-3 --set seed=$seed --set precision=bfloat16
done
pretrain mrH masked_region 20 150 4 6e-3
pretrain mrLong masked_region 20 600 4 6e-3  # four times as long
for part in ladder seeds slow_control longer; do
    study "$here/$part.yaml" "${1:-study}_$part"
done
