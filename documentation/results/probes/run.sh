#!/usr/bin/env bash
# What is readable from encoders on ACDC, dataset 27 in nnUNet_raw with its cases.csv (nnssl_import --acdc writes one).
# Needs nnUNet_raw, nnUNet_preprocessed and nnUNet_results; the folder to write is the argument. The encoders are those of
# ../acdc/run.sh where they are there already.
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
nnUNet_extTrainer=$(nnssl_plugin_path)
export nnUNet_extTrainer
out=${1:?the folder to write}
device=${DEVICE:-cpu}
mkdir -p "$out"

python "$here/table.py" "$nnUNet_raw/Dataset027_ACDC" "$out/table.csv"
nnssl_plan_and_preprocess -d 27 --size S --spacing 10 3 3 -c 2d -p nnssl3mm
cp "$here/../acdc/splits_final.json" "$nnUNet_preprocessed/Dataset027_ACDC/splits_final.json"
runs=$nnUNet_results/Dataset027_ACDC
pretrain() {  # name, method, epochs, steps per epoch, rate, more
    ls "$runs"/*_"$1"__nnssl3mm__2d/fold_0/encoder.pth 2> /dev/null || nnssl_pretrain 27 2d -p nnssl3mm -m "$2" -f 0 --name "$1" \
        --epochs "$3" --iterations "$4" --batch-size 8 --lr "$5" --set val_iterations=4 --set workers=0 -device "$device" "${@:6}"
}
pretrain mr masked_region 10 120 8e-3
pretrain byol600 byol 6 100 3e-3 --set precision=bfloat16
nnssl_probe -d 27 -p nnssl3mm -c 2d --labels "$out/table.csv" --group patient --per-group group \
    --init "masked_region=$runs/nnsslTrainer_MaskedRegion_mr__nnssl3mm__2d/fold_0/encoder.pth" \
    "byol=$runs/nnsslTrainer_BYOL_byol600__nnssl3mm__2d/fold_0/encoder.pth" \
    --target group --target lv_ml --target pixel_mm --target fov_mm --target slices \
    --random 3 --permutations 19 --picture tsne -device "$device" -o "$out/PROBE"
