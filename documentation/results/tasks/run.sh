#!/usr/bin/env bash
# Five pretext tasks on Hippocampus at 2 mm, fine-tuned with five labelled cases. Stop and repeat as you like.
#   run.sh [STUDY_FOLDER]
here=$(cd "$(dirname "$0")" && pwd)
. "$here/../common.sh"
hippocampus_2mm
pretrain mrH masked_region 20 150 4 6e-3
for task in next_slice rotation flip denoising; do
    pretrain ${task}T $task 10 300 4 6e-3 --set precision=bfloat16
done
study "$here/tasks.yaml" "${1:-tasks_study}"
