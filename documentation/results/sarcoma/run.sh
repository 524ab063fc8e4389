#!/usr/bin/env bash
# Soft-tissue sarcoma on CT (Dataset050_SarcomaCT) with three and ten labelled cases. Stop and repeat as you like.
#   run.sh [STUDY_FOLDER]
here=$(cd "$(dirname "$0")" && pwd)
. "$here/../common.sh"
dataset=Dataset050_SarcomaCT plans=nnsslPlans configuration=3d_fullres
nnssl_plan_and_preprocess -d 50 -pl nnsslPlannerCT --size S --spacing 6 5 5 -c $configuration
cp "$here/splits_final.json" "$nnUNet_preprocessed/$dataset/"
pretrain mr masked_region 10 100 4 6e-3 --set precision=bfloat16
pretrain mg models_genesis 10 100 4 6e-3 --set precision=bfloat16
study "$here/sarcoma.yaml" "${1:-sarcoma_study}"
