#!/usr/bin/env bash
# ACDC in 2D with one, three and ten labelled patients, and in 3D with three.
#   run.sh [STUDY_FOLDER]
here=$(cd "$(dirname "$0")" && pwd)
. "$here/../common.sh"
acdc_3mm
acdc_encoders
study "$here/acdc.yaml" "${1:-acdc_study}"               # against the matched control
pretrain mg600 models_genesis 6 100 8 8e-3 --set precision=bfloat16
study "$here/methods.yaml" "${1:-acdc_study}_methods"    # other methods
pretrain mg600low models_genesis 6 100 8 1e-3 --set precision=bfloat16
study "$here/genesis.yaml" "${1:-acdc_study}_genesis"    # why does one of them do harm?
study "$here/plain.yaml" "${1:-acdc_study}_plain"        # against plain controls
configuration=3d_fullres
nnssl_plan_and_preprocess -d 27 --size S --spacing 10 3 3 -c $configuration -p $plans
pretrain mr3d masked_region 6 100 2 6e-3 --set precision=bfloat16
study "$here/three_d.yaml" "${1:-acdc_study}_3d"         # three patients in 3D
