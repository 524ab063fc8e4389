#!/usr/bin/env bash
# What is readable from encoders on ACDC (nnssl_import --acdc writes the cases.csv that the table is made from).
#   run.sh FOLDER
here=$(cd "$(dirname "$0")" && pwd)
. "$here/../common.sh"
out=${1:?the folder to write}
mkdir -p "$out"
acdc_3mm
python "$here/table.py" "$nnUNet_raw/$dataset" "$out/table.csv"
pretrain mr masked_region 10 120 8 8e-3
pretrain byol600 byol 6 100 8 3e-3 --set precision=bfloat16
runs=$nnUNet_results/$dataset
nnssl_probe -d 27 -p $plans -c $configuration --labels "$out/table.csv" --group patient --per-group group \
    --init "masked_region=$runs/nnsslTrainer_MaskedRegion_mr__${plans}__$configuration/fold_0/encoder.pth" \
    "byol=$runs/nnsslTrainer_BYOL_byol600__${plans}__$configuration/fold_0/encoder.pth" \
    --target group --target lv_ml --target pixel_mm --target fov_mm --target slices \
    --random 3 --permutations 19 --picture tsne -device "$device" -o "$out/PROBE"
