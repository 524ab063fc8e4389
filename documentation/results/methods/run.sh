#!/usr/bin/env bash
# Every method, briefly, on Hippocampus (3D) and ACDC (2D and 3D); then the table. Datasets 4 and 27 lie in nnUNet_raw.
# Finished runs are skipped, so it can be stopped and started again.
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
steps=${STEPS:-60}
nnssl_plan_and_preprocess -d 4 --size S -c 3d_fullres
nnssl_plan_and_preprocess -d 27 --size S -c 2d 3d_fullres
python "$here/make_plans.py"
methods=$(python -c "from nnssl.methods import METHODS; print(*sorted(METHODS), 'spark+simclr')")
for where in "4 3d_fullres" "27 2d" "27 3d_fullres"; do
    for method in $methods; do
        plans="nnsslPlans_brief"
        if [[ $method == voco && $where == 27* ]]; then  # its cells need a larger crop: the plans' own
            plans="nnsslPlans --batch-size $([[ $where == *2d ]] && echo 4 || echo 2)"
        fi
        nnssl_pretrain $where -m "$method" -p $plans -device cpu --epochs 3 --iterations $((steps / 3)) \
            --set val_iterations=8 --set save_every=1000 --set workers=1 --c || echo "FAILED: $where $method"
    done
done
python "$here/readout.py"
