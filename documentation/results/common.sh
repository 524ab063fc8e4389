# Sourced by the run.sh of each page: the plans and splits that the kept studies were made with, and pretrainings that are
# made once. Needs nnUNet_raw, nnUNet_preprocessed and nnUNet_results. DEVICE is cpu if not set.
set -euo pipefail
results=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
nnUNet_extTrainer=$(nnssl_plugin_path)
export nnUNet_extTrainer nnUNet_compile=f
device=${DEVICE:-cpu}

hippocampus_2mm() {  # Dataset004_Hippocampus
    dataset=Dataset004_Hippocampus plans=nnsslPlans configuration=3d_fullres
    nnssl_plan_and_preprocess -d 4 --size S --spacing 2 2 2 -c $configuration
    cp "$results/recipe/splits_final.json" "$nnUNet_preprocessed/$dataset/"
}

hippocampus_1mm() {  # the same at its own spacing
    dataset=Dataset004_Hippocampus plans=nnsslFull configuration=3d_fullres
    nnssl_plan_and_preprocess -d 4 --size S -c $configuration -p $plans
    cp "$results/recipe/splits_final.json" "$nnUNet_preprocessed/$dataset/"
}

acdc_3mm() {  # Dataset027_ACDC: one case per labelled frame, patients in cases.csv or named patientNNN_frameNN
    dataset=Dataset027_ACDC plans=nnssl3mm configuration=2d
    nnssl_plan_and_preprocess -d 27 --size S --spacing 10 3 3 -c $configuration -p $plans
    cp "$results/acdc/splits_final.json" "$nnUNet_preprocessed/$dataset/"  # by patient
}

fold=0  # whose training cases are the pool

pretrain() {  # name, method, epochs, steps per epoch, batch size, rate, more; nothing where it has been made, the rest where it was stopped
    local run="$nnUNet_results/$dataset"/*_"$1__${plans}__$configuration"/fold_$fold again=--overwrite
    if compgen -G "$run/encoder.pth"; then return; fi
    if compgen -G "$run/checkpoint_*.pth" > /dev/null; then again=--c; fi  # stopped on the way
    nnssl_pretrain $dataset $configuration -p $plans -m "$2" -f $fold --name "$1" --epochs "$3" --iterations "$4" --batch-size "$5" \
        --lr "$6" --set val_iterations=4 --set workers=0 -device "$device" $again "${@:7}"
}

acdc_encoders() {  # after acdc_3mm; `inits` names the files as --init takes them
    pretrain mr masked_region 10 120 8 8e-3
    pretrain byol600 byol 6 100 8 3e-3 --set precision=bfloat16
    pretrain spk600 spark 6 100 8 8e-3 --set precision=bfloat16
    local init
    inits=()
    for init in masked_region=MaskedRegion_mr byol=BYOL_byol600 spark=SparK_spk600; do
        inits+=("${init%%=*}=$nnUNet_results/$dataset/nnsslTrainer_${init#*=}__${plans}__$configuration/fold_0/encoder.pth")
    done
}

acdc_with_table() {  # folder; its table.csv has what can be read off a case: diagnosis, volumes, sizes. Plans and encoders as above
    mkdir -p "$1"
    acdc_3mm
    python "$results/probes/table.py" "$nnUNet_raw/$dataset" "$1/table.csv"
    acdc_encoders
}

study() {  # study file, folder; what is finished is not done again
    nnssl_study run "$1" -o "$2" -device "$device"
    nnssl_study report "$2"
}
