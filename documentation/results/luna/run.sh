#!/usr/bin/env bash
# Lung nodule patches (LUNA16, one npz file in MedMNIST's layout): shrinking sets of labels on two pretrained encoders.
#   run.sh NPZ_FILE FOLDER
here=$(cd "$(dirname "$0")" && pwd)
. "$here/../common.sh"
npz=${1:?the npz file} out=${2:?the folder to write}

python "$here/../../how-to/classify/npz_to_pool.py" "$npz" 610 Luna 1500
nnssl_plan_and_preprocess -d 610 --size S -c 2d
for method in byol spark; do
    nnssl_pretrain 610 2d -m $method --name luna --epochs 4 --iterations 100 --batch-size 32 --set val_iterations=2 --set workers=0 \
        --set precision=bfloat16 -device "$device" --c
done
runs=$nnUNet_results/Dataset610_Luna
inits=("byol=$runs/nnsslTrainer_BYOL_luna__nnsslPlans__2d/fold_all/encoder.pth"
    "spark=$runs/nnsslTrainer_SparK_luna__nnsslPlans__2d/fold_all/encoder.pth")
mkdir -p "$out"
nnssl_study init -d 610 -c 2d --npz "$npz" -m linear --init "${inits[@]}" --counts 50 200 1000 --seeds 5 -o "$out/linear.yaml" --overwrite
study "$out/linear.yaml" "$out/linear"
nnssl_study init -d 610 -c 2d --npz "$npz" -m finetune --init "${inits[@]}" --counts 50 200 1000 --seeds 3 --steps 200 --test-cases 600 \
    -o "$out/finetune.yaml" --overwrite
sed -i 's/  lr: 0.0001/  lr: 0.001/' "$out/finetune.yaml"  # 1e-4 is slow for a network of 16 features
study "$out/finetune.yaml" "$out/finetune"
