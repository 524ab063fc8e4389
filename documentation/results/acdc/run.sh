#!/usr/bin/env bash
# ACDC in 2D with one, three and ten labelled patients. Needs nnUNet_raw with Dataset027_ACDC (one case per labelled frame,
# patients in cases.csv or named patientNNN_frameNN), nnUNet_preprocessed and nnUNet_results.
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
nnUNet_extTrainer=$(nnssl_plugin_path)
export nnUNet_extTrainer nnUNet_compile=f
study=${1:-acdc_study}
device=${DEVICE:-cpu}

nnssl_plan_and_preprocess -d 27 --size S --spacing 10 3 3 -c 2d -p nnssl3mm
cp "$here/splits_final.json" "$nnUNet_preprocessed/Dataset027_ACDC/splits_final.json"  # by patient
ls "$nnUNet_results"/Dataset027_ACDC/*_mr__nnssl3mm__2d/fold_0/encoder.pth 2> /dev/null ||
    nnssl_pretrain 27 2d -p nnssl3mm -m masked_region -f 0 --name mr --epochs 10 --iterations 120 --batch-size 8 \
        --lr 8e-3 --set val_iterations=4 --set workers=0 -device "$device"
nnssl_study run "$here/acdc.yaml" -o "$study" -device "$device"  # against the matched control
nnssl_study report "$study"
nnssl_study run "$here/plain.yaml" -o "${study}_plain" -device "$device"  # against plain controls
nnssl_study report "${study}_plain"
