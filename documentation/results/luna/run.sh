#!/usr/bin/env bash
# Lung nodule patches (LUNA16, one npz file in MedMNIST's layout): shrinking sets of labels on two pretrained encoders.
# About an hour on one CPU core; stop and repeat as you like.
#   run.sh NPZ_FILE FOLDER
here=$(cd "$(dirname "$0")" && pwd)
. "$here/../common.sh"
npz=${1:?the npz file} out=${2:?the folder to write}
dataset=Dataset610_Luna plans=nnsslPlans configuration=2d fold=all

if ! [ -d "$nnUNet_raw/$dataset" ]; then
    python "$here/../../how-to/classify/npz_to_pool.py" "$npz" 610 Luna 1500
fi
nnssl_plan_and_preprocess -d 610 --size S -c $configuration
pretrain byol byol 4 100 32 3e-3
pretrain spark spark 4 100 32 6e-3
runs=$nnUNet_results/$dataset
inits=("byol=$runs/nnsslTrainer_BYOL_byol__nnsslPlans__2d/fold_all/encoder.pth"
    "spark=$runs/nnsslTrainer_SparK_spark__nnsslPlans__2d/fold_all/encoder.pth")
mkdir -p "$out"
sizes=(--counts 50 200 1000 --seeds 5 --overwrite)
nnssl_study init -d 610 -c 2d --npz "$npz" -m linear --init "${inits[@]}" "${sizes[@]}" -o "$out/linear.yaml"
study "$out/linear.yaml" "$out/linear"
nnssl_study init -d 610 -c 2d --npz "$npz" -m finetune --init "${inits[@]}" "${sizes[@]}" --steps 200 --test-cases 600 \
    -o "$out/finetune.yaml"
sed -i 's/  lr: 0.0001/  lr: 0.001/' "$out/finetune.yaml"  # 1e-4 is slow for a network of 16 features
study "$out/finetune.yaml" "$out/finetune"
