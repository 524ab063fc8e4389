#!/usr/bin/env bash
# 3, 10 and 40 labelled cases of Hippocampus at 2 mm. Needs nnUNet_raw with Dataset004_Hippocampus, nnUNet_preprocessed and
# nnUNet_results. Some hours on two CPU cores; stop and repeat as you like.
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
nnUNet_extTrainer=$(nnssl_plugin_path)
export nnUNet_extTrainer nnUNet_compile=f
study=${1:-study}
device=${DEVICE:-cpu}

nnssl_plan_and_preprocess -d 4 --size S --spacing 2 2 2 -c 3d_fullres
# the split that the kept study was made with
cp "$here/../recipe/splits_final.json" "$nnUNet_preprocessed/Dataset004_Hippocampus/splits_final.json"

pretrain() {  # name, method, epochs, steps per epoch, rate, more
    ls "$nnUNet_results"/Dataset004_Hippocampus/*_"$1"__nnsslPlans__3d_fullres/fold_0/encoder.pth 2> /dev/null ||
        nnssl_pretrain 4 3d_fullres -m "$2" -f 0 --name "$1" --epochs "$3" --iterations "$4" --batch-size 4 --lr "$5" \
            --set val_iterations=4 --set workers=0 -device "$device" "${@:6}"
}
pretrain mrH masked_region 20 150 6e-3
pretrain sparkH spark 10 300 6e-3
pretrain mgH models_genesis 10 300 6e-3
nnssl_study run "$here/label_counts.yaml" -o "$study" -device "$device"
nnssl_study report "$study"
