#!/usr/bin/env bash
# Five diagnoses of ACDC by patient, with 10, 20 and 40 labelled patients: a linear model on frozen features, and
# fine-tuning.
# nnssl_import --acdc writes the cases.csv with the diagnoses. Stop and repeat as you like.
#   run.sh FOLDER
here=$(cd "$(dirname "$0")" && pwd)
. "$here/../common.sh"
out=${1:?the folder to write}
acdc_with_table "$out"
init=(nnssl_study init -d 27 -p $plans -c $configuration --labels "$out/table.csv" --target group --group patient
    --init "${inits[@]}" --unit patient --counts 10 20 40)
same_patient='s/patient07[46]_frame[0-9]+, ?//g; s/, ?patient07[46]_frame[0-9]+//g'  # 074 and 076 have the same voxels
"${init[@]}" -m linear --seeds 5 -o "$out/linear.yaml" --overwrite
sed -i -E "$same_patient" "$out/linear.yaml"
study "$out/linear.yaml" "$out/linear"
sed "s#labels: table.csv#labels: $(realpath "$out")/table.csv#" "$here/finetune.yaml" > "$out/finetune.yaml"
study "$out/finetune.yaml" "$out/finetune"
