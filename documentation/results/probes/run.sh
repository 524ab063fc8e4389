#!/usr/bin/env bash
# What is readable from encoders on ACDC (nnssl_import --acdc writes the cases.csv that the table is made from).
#   run.sh FOLDER
here=$(cd "$(dirname "$0")" && pwd)
. "$here/../common.sh"
out=${1:?the folder to write}
acdc_with_table "$out"
nnssl_probe -d 27 -p $plans -c $configuration --labels "$out/table.csv" --group patient --per-group group \
    --init "${inits[@]:0:2}" \
    --target group --target lv_ml --target pixel_mm --target fov_mm --target slices \
    --random 3 --permutations 19 --picture tsne -device "$device" -o "$out/PROBE"
