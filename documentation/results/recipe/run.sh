#!/usr/bin/env bash
# The search for a recipe: Hippocampus at 2 mm, five labelled cases. Needs nnUNet_raw with Dataset004_Hippocampus,
# nnUNet_preprocessed and nnUNet_results. Some hours on two CPU cores; stop and repeat as you like.
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
nnUNet_extTrainer=$(nnssl_plugin_path)
export nnUNet_extTrainer nnUNet_compile=f
study=${1:-study}
device=${DEVICE:-cpu}

nnssl_plan_and_preprocess -d 4 --size S --spacing 2 2 2 -c 3d_fullres
# the split that the kept study was made with
cp "$here/splits_final.json" "$nnUNet_preprocessed/Dataset004_Hippocampus/splits_final.json"

pretrain() {  # name, method, epochs, steps per epoch, batch size, rate, more
    run=$nnUNet_results/Dataset004_Hippocampus/*_$1__nnsslPlans__3d_fullres/fold_0
    # shellcheck disable=SC2086
    ls $run/encoder.pth 2> /dev/null || nnssl_pretrain 4 3d_fullres -m "$2" -f 0 --name "$1" --epochs "$3" \
        --iterations "$4" --batch-size "$5" --lr "$6" --set val_iterations=4 --set workers=0 -device "$device" "${@:7}"
}
pretrain mr masked_region 20 100 8 1e-3      # as it was before the search
pretrain mrH masked_region 20 150 4 6e-3     # six times the rate, three quarters of the crops

for part in recipe parts; do
    nnssl_study run "$here/$part.yaml" -o "${study}_$part" -device "$device"
    nnssl_study report "${study}_$part"
done
