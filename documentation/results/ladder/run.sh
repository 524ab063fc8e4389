#!/usr/bin/env bash
# How long to pretrain: snapshots of one pretraining on Hippocampus at 2 mm, fine-tuned with five labelled cases. Needs
# nnUNet_raw with Dataset004_Hippocampus, nnUNet_preprocessed and nnUNet_results. Stop and repeat as you like.
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
nnUNet_extTrainer=$(nnssl_plugin_path)
export nnUNet_extTrainer nnUNet_compile=f
study=${1:-study}
device=${DEVICE:-cpu}

nnssl_plan_and_preprocess -d 4 --size S --spacing 2 2 2 -c 3d_fullres
# the split that the kept study was made with
cp "$here/../recipe/splits_final.json" "$nnUNet_preprocessed/Dataset004_Hippocampus/splits_final.json"
ls "$nnUNet_results"/Dataset004_Hippocampus/*_mrS__nnsslPlans__3d_fullres/fold_0/encoder.pth 2> /dev/null ||
    nnssl_pretrain 4 3d_fullres -m masked_region -f 0 --name mrS --epochs 20 --iterations 150 --batch-size 4 --lr 6e-3 \
        --snapshots 0 100 300 1000 --set val_iterations=4 --set workers=0 -device "$device"
for seed in 1 2 3; do  # untrained weights through the same path
    ls "$nnUNet_results"/Dataset004_Hippocampus/*_rnd"${seed}"__nnsslPlans__3d_fullres/fold_0/snapshots/encoder_step_000000.pth 2> /dev/null ||
        nnssl_pretrain 4 3d_fullres -m masked_region -f 0 --name rnd$seed --epochs 1 --iterations 1 --batch-size 2 --snapshots 0 \
            --set seed=$seed --set val_iterations=1 --set workers=0 -device "$device"
done

for seed in 1 2; do  # two more pretrainings
    ls "$nnUNet_results"/Dataset004_Hippocampus/*_mrT"${seed}"__nnsslPlans__3d_fullres/fold_0/encoder.pth 2> /dev/null ||
        nnssl_pretrain 4 3d_fullres -m masked_region -f 0 --name mrT$seed --epochs 20 --iterations 150 --batch-size 4 --lr 6e-3 \
            --set seed=$seed --set precision=bfloat16 --set val_iterations=4 --set workers=0 -device "$device"
done

for part in ladder seeds slow_control; do
    nnssl_study run "$here/$part.yaml" -o "${study}_$part" -device "$device"
    nnssl_study report "${study}_$part"
done
