#!/usr/bin/env bash
# The search for a recipe: Hippocampus at 2 mm, five labelled cases. Some hours on two CPU cores; stop and repeat as you like.
#   run.sh [STUDY_FOLDER]
here=$(cd "$(dirname "$0")" && pwd)
. "$here/../common.sh"
hippocampus_2mm
pretrain mr masked_region 20 100 8 1e-3      # as it was before the search
pretrain mrH masked_region 20 150 4 6e-3     # six times the rate, three quarters of the crops
for part in recipe parts schedule; do  # schedule: four times as many steps of fine-tuning
    study "$here/$part.yaml" "${1:-study}_$part"
done
