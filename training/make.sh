#!/usr/bin/env bash
# The demo's cross-encoder from nothing but all-MiniLM-L6-v2 and the data: every pass, and the searches between the last.
#
#     training/make.sh minilm package/dict training/runs/demo
#
# Goes on where it stopped. Two cores with bfloat16 take some four hours. The models end in OUT/pass8/onnx.
set -euo pipefail
base=$1 wordnet=$2 out=$3
here=$(dirname "$0")

train() {  # NUMBER [OPTION...]: up to a pass, into a folder of its own
    local number=$1
    shift
    mkdir -p "$out/pass$number"
    if [ -e "$out/pass6/base.npz" ]; then cp -n "$out/pass6/base.npz" "$out/pass$number/"; fi
    if [ ! -e "$out/pass$number/weights.safetensors" ]; then
        python "$here/train_cross_encoder.py" --base "$base" --wordnet "$wordnet" --out "$out/pass$number" --to-pass "$number" "$@"
    fi
    if [ ! -e "$out/pass$number/onnx/encoder" ]; then
        python "$here/export_onnx.py" --cross-encoder "$out/pass$number/model" --encoder "$base" --wordnet "$wordnet" \
            --out "$out/pass$number/onnx" --fp32 "$out/pass$number/fp32"
    fi
}

mine() {  # NUMBER [OPTION...]: what a search of the model after a pass finds
    local found=$out/pass$1/mined.npz model=$out/pass$1/onnx/cross_encoder
    shift
    if [ ! -e "$found" ]; then python "$here/mine.py" --wordnet "$wordnet" --cross-encoder "$model" --out "$found" "$@"; fi
}

train 6
mine 6 --queries 3000 --learned 800 --calls 150
train 7 --weights "$out/pass6/weights.safetensors" --from-pass 7 --mined "$out/pass6/mined.npz"
mine 7 --seed 1
train 8 --weights "$out/pass7/weights.safetensors" --from-pass 8 --mined "$out/pass7/mined.npz"
