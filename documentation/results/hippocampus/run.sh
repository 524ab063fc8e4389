#!/usr/bin/env bash
# Hippocampus, 10 labelled cases: pretrained against the matched control from scratch, two draws. Runs on two
# CPU cores. Needs nnUNet_raw, nnUNet_preprocessed and nnUNet_results, and the folder of the labelled dataset as argument.
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
nnUNet_extTrainer=$(nnssl_plugin_path)
export nnUNet_extTrainer nnUNet_compile=f nnUNet_n_proc_DA=1
device=${DEVICE:-cpu}

python "$here/make_datasets.py" "$1"
nnssl_plan_and_preprocess -d 105 --size S -c 3d_fullres
nnssl_plan_and_preprocess -d 104 --size S -c 3d_fullres --like 105
# 200 optimiser steps for both arms; AdamW because nnU-Net's SGD does not leave the all-background answer in so few
python - "$nnUNet_preprocessed/Dataset105_HippocampusFew/nnsslPlans.json" <<'PY'
import json, sys
plans = json.load(open(sys.argv[1]))
plans["nnssl"] = {"num_epochs": 25, "num_iterations_per_epoch": 8, "num_val_iterations_per_epoch": 5,
                  "optimizer": "adamw", "initial_lr": 1e-3}
json.dump(plans, open(sys.argv[1], "w"), indent=2)
PY
nnssl_pretrain 104 3d_fullres -m masked_region --lr 1e-3 --epochs 20 --iterations 50 -device "$device"
run=$nnUNet_results/Dataset104_HippocampusPool/nnsslTrainer_MaskedRegion__nnsslPlans__3d_fullres/fold_all
for draw in 0 1; do
    nnUNetv2_train 105 3d_fullres $draw -p nnsslPlans -tr nnUNetTrainer_SSLScratch -device "$device"
    nnUNetv2_train 105 3d_fullres $draw -p nnsslPlans -tr nnUNetTrainer_SSLWarmup \
        -pretrained_weights "$run/nnunet_init.pth" -device "$device"
done
python "$here/summarise.py"
