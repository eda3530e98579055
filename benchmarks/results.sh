#!/usr/bin/env bash
# Everything that docs/results reports, measured again; two cores take some ten hours, most of them for exact scores.
#
#     benchmarks/results.sh MODEL WORK [STEP...]
#
# MODEL: folder or name of all-MiniLM-L6-v2, a sentence-transformers model. WORK: keeps scores and unfinished work, so
# what was stopped goes on. STEPs, in their order; all unless given:
#     exact     exact scores of ICD-10-CM and HPO (dev and test) and WordNet (test), into benchmarks/scores
#     choices   rounds, lambda, noise, ridge, epochs, which pairs to score, which items next, on dev queries of ICD-10-CM
#     icd       every system of the paper on test queries of ICD-10-CM
#     dense     dense rows against sparse cells, each at its own setting
#     hpo       every system of the paper on test queries of HPO
#     wordnet   the same on those of WordNet's verbs, read where CROSSKNN_WORDNET says
#     beyond    a rival, and what is ours, on all three
#     distilled a fine-tuned dual encoder beneath what is ours, on ICD-10-CM and HPO
#     late      late interaction before hybrid vectors, on all three
#     states    hidden states of the cross-encoder beside these, on all three
#     ucb       upper confidence bounds in these searches, on all three
#     best      train queries that stand for the others, and fifty rounds, on all three
#     default   what a build and a search do unless told otherwise, beside expected scores, on all three
#     ablations what each part of our system is worth on ICD-10-CM and HPO
#     stopping  does the search know when to stop?
#     sharing   one budget for many queries, on all three
#     page      figures into docs/results and the README
set -euo pipefail
cd "$(dirname "$0")/.."
model=$1 work=$2
shift 2
steps=("${@:-exact choices icd dense hpo wordnet beyond distilled late states ucb best default ablations stopping sharing page}")
results=benchmarks/results cache=$work/scores.sqlite
mkdir -p "$work"
export OPENBLAS_NUM_THREADS=1  # the systems of this size that a query solves take longer on two threads

measure() {  # NAME DATASET QUERIES [OPTION...] -- SYSTEM...
    local name=$1 data=$2 queries=$3 options=() systems=()
    shift 3
    while [ "$1" != -- ]; do options+=("$1"); shift; done
    shift
    for system in "$@"; do systems+=(--system "$system"); done
    crossknn benchmark "$data" --scorer demo --first-stage "st:$model" --limit "$queries" \
        --cache "$cache" --out "$work/$name" "${options[@]}" "${systems[@]}"
    mkdir -p "$results/$name"
    cp "$work/$name"/report.{json,md} "$work/$name"/*.png "$results/$name/"
}

everywhere() {  # NAME [OPTION...] -- SYSTEM...: on all three, a report for each
    local name=$1 data
    shift
    for data in icd10cm-10k hpo-10k "wordnet-10k:$CROSSKNN_WORDNET"; do
        measure "$name-${data%%:*}" "$data" 300 --train-limit 500 "$@"
    done
}

exact() {
    local at
    for at in "icd10cm-10k dev 100" "hpo-10k dev 100" "icd10cm-10k test 300" "hpo-10k test 300" "wordnet-10k test 300"; do
        read -r name split queries <<< "$at"
        python benchmarks/stored_scores.py make "$name" "$split" --queries "$queries" --work "$work/exact"
    done
    python benchmarks/stored_scores.py fill "$cache"
}

choices() {
    measure choices-icd10cm-10k-dev icd10cm-10k 100 --split dev --train-limit 500 -- rerank axn-r2 axn-r5 axn axn-r20 \
        gar-r5 gar-r10 gar gar-r40 tour-{ce,mse}{,-r10}{,:scale@1} axn-paper{,-m0.5,-m0.8,-m0.9,-r10-m0.5}{,:scale@1} \
        axn-paper{,-m0.5,-m0.8,-m0.9}:mf@2 axn-paper-r10{-m0.5,-m0.8}:mf@2 \
        axn-paper{,-m0.2,-m0.5,-m0.8,-m0.9}:mf@10 axn-paper-r10{,-m0.5,-m0.8}:mf@10 \
        axn-paper{,-m0.5,-m0.8}:{mf-ind,mf-adamw,distilled}@10 axn-paper-r10{-m0.5,-m0.8}:mf-adamw@10
    local script
    for script in choices acquisition new_items; do
        python "benchmarks/$script.py" --first-stage "$model" --cache "$cache"
    done
}

# Every system of the paper, each with its own settings and with those chosen on dev.
paper=(rerank rerank/bm25 tour-ce tour-mse axn-paper{,-m0.9,/bm25} axn-paper-r{1,2,10,20} axn{,/bm25} axn-r{1,2,5,20}
    {rerank,axn-paper,axn-paper-m0.8}:scale@1 {rerank,axn-paper,axn-paper-r10-m0.8,axn}:mf@{2,10}
    axn-paper-r10-m0.8:mf@{2x100,10x125}
    {rerank,axn-paper,axn-paper-m0.8,axn}:{mf-ind,mf-adamw,distilled}@10
    axn/vectors:{mf,distilled}@10 axn/distilled:mf@10 anncur:cur@10 adacur:cur@{2,10})
quick=()  # all but dual encoders fine-tuned on 500 queries, whose training was left out for time on the other two sets
for system in "${paper[@]}"; do [[ $system == *distilled* ]] || quick+=("$system"); done

icd() { measure icd10cm-10k icd10cm-10k 300 --train-limit 500 -- "${paper[@]}" rerank/tfidf; }

hpo() { measure hpo-10k hpo-10k 300 --train-limit 500 -- "${quick[@]}"; }

wordnet() { measure wordnet-10k "wordnet-10k:$CROSSKNN_WORDNET" 300 --train-limit 500 -- "${quick[@]}"; }

# A rival, and what is ours, beside the best of the paper's at the same calls. x125: fewer train queries, and as many more
# pairs of each; chosen on dev for ours, and given to the paper's best too.
beyond() {
    local best=axn-paper-r10-m0.8 ours=bayes:mf-side-refined hybrid=bayes/hybrid:mf-side-refined
    local systems=(rerank axn axn:mf@10 $best:mf@{2,10,2x100,10x125} gar {rerank,axn}:mf-refined@10 axn:mf-refined@10x125
        {rerank,bayes}:mf-side@{2,10} bayes-r10:mf-side@10 {rerank,bayes}:mf-side-refined@{2,10,2x100,10x125}
        {rerank,axn}/hybrid $best/hybrid:mf@10 axn/hybrid:mf@10 $hybrid@{10,2x100,10x125})
    local compared=($hybrid@10x125,{$best:mf@10,$best/hybrid:mf@10,$ours@10x125} $hybrid@2x100,{$best:mf@2,$ours@2x100}
        axn/hybrid,axn rerank/hybrid,rerank $ours@10x125,{$best:mf@10,$best:mf@10x125,axn:mf@10,$ours@10}
        $ours@2x100,$best:mf@{2,2x100} axn:mf@10,$best:mf@10)
    everywhere beyond "${compared[@]/#/--compare=}" -- "${systems[@]}"
}

# The dual encoder itself fine-tuned on the same scores: minutes of training for each.
distilled() {
    local name best=axn-paper-r10-m0.8 ours=bayes:mf-side-distilled before=bayes:mf-side-refined
    local compared=($ours@10x125,{$best:mf@10,$best:mf-distilled@10x125,$before@10x125} $ours@2x100,{$best:mf@2,$before@2x100})
    for name in icd10cm-10k hpo-10k; do
        measure "distilled-$name" "$name" 300 --train-limit 500 "${compared[@]/#/--compare=}" -- \
            $best:mf@{2,10} $best:mf-distilled@10x125 {$before,$ours}@{2x100,10x125}
    done
}

dense() {
    measure dense-icd10cm-10k icd10cm-10k 300 --train-split dev --train-limit 100 -- rerank axn axn:mf axn:mf@{10,50} \
        bayes:mf-side{,@10} adacur:cur@{10,50} adacur:cur anncur:cur@50 anncur:cur
}

late() {
    local at options=() systems=(rerank/hybrid rerank/late)
    for at in 10x125 2x100; do
        local paper=axn-paper-r10-m0.8:mf@${at%x*} before=bayes/hybrid:mf-side-refined@$at ours=bayes/late:mf-side-refined@$at
        systems+=("$paper" "$before" "$ours")
        options+=("--compare=$ours,$paper" "--compare=$ours,$before")
    done
    everywhere late "${options[@]}" -- "${systems[@]}"
}

# One of the calls per item is to read it; in the last two reports it comes on top.
states() {
    local at name ours paper options=() systems=()
    for at in 10x125 2x100; do
        paper=axn-paper-r10-m0.8:mf@${at%x*}
        systems+=("$paper")
        for ours in bayes/{states,latestates}:mf-side-refined@"$at"; do
            systems+=("$ours")
            options+=("--compare=$ours,$paper")
        done
    done
    everywhere states "${options[@]}" -- "${systems[@]}"
    paper=axn-paper-r10-m0.8:mf@2 ours=bayes/latestates:mf-side-refined@3x100
    for name in icd10cm-10k hpo-10k; do
        measure "states3-$name" "$name" 300 --train-limit 500 "--compare=$ours,$paper" -- "$paper" "$ours"
    done
}

ucb() {
    local at ours paper options=() systems=()
    for at in 10x125 2x100; do
        paper=axn-paper-r10-m0.8:mf@${at%x*}
        systems+=("$paper" bayes/{late,latestates}:mf-side-refined@"$at")
        for ours in bayes-ucb/{late,latestates}:mf-side-refined@"$at"; do
            systems+=("$ours")
            options+=("--compare=$ours,$paper" "--compare=$ours,${ours/-ucb/}")
        done
    done
    ours=bayes-ucb:mf-side-refined@10
    everywhere ucb "${options[@]}" "--compare=$ours,${ours/-ucb/}" -- "${systems[@]}" ${ours/-ucb/} $ours
}

best() {
    local at ours paper=axn-paper-r10-m0.8 options=() systems=()
    for at in 10x125 2x100; do
        systems+=("$paper:mf@${at%x*}" "$paper:mf@$at")
        for ours in bayes{,-ucb-r50}/latestates:mf-side-refined@"$at"; do
            systems+=("$ours")
            options+=("--compare=$ours,$paper:mf@${at%x*}" "--compare=$ours,$paper:mf@$at")
        done
    done
    everywhere best "${options[@]}" -- "${systems[@]}"
}

default() {
    local at ours options=() systems=()
    for at in 10x125 2x100; do
        ours=bayes-ucb/latestates:mf-side-refined@$at
        systems+=("${ours/-ucb/}" "$ours")
        options+=("--compare=$ours,${ours/-ucb/}")
    done
    everywhere default "${options[@]}" -- "${systems[@]}"
}

stopping() {
    local name options
    for name in icd10cm-10k hpo-10k wordnet-10k; do
        options=(--calibrate 30 --exact 20)
        [ "$name" != wordnet-10k ] || options=()  # nothing is chosen on its dev queries
        python benchmarks/stopping.py "$name" --queries 300 "${options[@]}" --first-stage "st:$model" --cache "$cache"
    done
}

sharing() {
    local name
    for name in icd10cm-10k hpo-10k wordnet-10k; do
        python benchmarks/sharing.py "$name" --first-stage "st:$model" --cache "$cache"
    done
}

ablations() {
    local name
    for name in icd10cm-10k hpo-10k; do
        python benchmarks/ablations.py "$name" --first-stage "$model" --cache "$cache"
    done
}

page() { python benchmarks/results_page.py; }

for step in ${steps[@]}; do "$step"; done
