#!/usr/bin/env bash
# Lung nodule patches (LUNA16, one npz file in MedMNIST's layout): shrinking sets of labels on two pretrained encoders. Arguments:
# the npz file, and the folder to write. Needs nnUNet_raw, nnUNet_preprocessed and nnUNet_results.
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
nnUNet_extTrainer=$(nnssl_plugin_path)
export nnUNet_extTrainer
npz=${1:?the npz file} out=${2:?the folder to write}
device=${DEVICE:-cpu}

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
nnssl_study init -d 610 -c 2d --npz "$npz" -m linear --init "${inits[@]}" --counts 50 200 1000 --seeds 5 -o "$out/linear.yaml"
nnssl_study run "$out/linear.yaml" -o "$out/linear" -device "$device"
nnssl_study report "$out/linear"
nnssl_study init -d 610 -c 2d --npz "$npz" -m finetune --init "${inits[@]}" --counts 50 200 1000 --seeds 3 --steps 200 --test-cases 600 \
    -o "$out/finetune.yaml"
sed -i 's/  lr: 0.0001/  lr: 0.001/' "$out/finetune.yaml"  # 1e-4 is slow for a network of 16 features
nnssl_study run "$out/finetune.yaml" -o "$out/finetune" -device "$device"
nnssl_study report "$out/finetune"
