#!/usr/bin/env bash
# What is readable from encoders on ACDC, dataset 27 in nnUNet_raw with its cases.csv (nnssl_import --acdc writes one).
# Needs nnUNet_raw, nnUNet_preprocessed and nnUNet_results; the folder to write is the argument. EPOCHS=40 pretrains ten times longer.
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
nnUNet_extTrainer=$(nnssl_plugin_path)
export nnUNet_extTrainer
mkdir -p "$1"

python "$here/table.py" "$nnUNet_raw/Dataset027_ACDC" "$1/table.csv"
nnssl_plan_and_preprocess -d 27 --size S --spacing 10 3 3 -c 2d
for method in masked_region byol; do
    nnssl_pretrain 27 2d -m $method --batch-size 8 --epochs "${EPOCHS:-4}" --iterations 100 --set workers=0 -device cpu --c
done
runs=$nnUNet_results/Dataset027_ACDC
nnssl_probe -d 27 -c 2d --labels "$1/table.csv" --group patient --per-group group \
    --init "masked_region=$runs/nnsslTrainer_MaskedRegion__nnsslPlans__2d/fold_all/encoder.pth" \
    "byol=$runs/nnsslTrainer_BYOL__nnsslPlans__2d/fold_all/encoder.pth" \
    --target group --target lv_ml --target pixel_mm --target fov_mm --target slices \
    --random 3 --permutations 19 --picture tsne -device cpu -o "$1/PROBE"
