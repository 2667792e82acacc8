#!/usr/bin/env bash
# From nothing to the embedded checkpoint. Every step goes on where it was stopped; run it again after an interruption.
#
#   recipes/nano/train.sh WORK SPEECH TEXT
#
# WORK    folder for everything that is made (about 60 GB for the full recipe)
# SPEECH  folder with a manifest.jsonl of human recordings, WITHOUT share-alike or unclear licences, or to be filtered here
# TEXT    sentences, one a line (.gz is read too); the last 1000 are never used
#
# Needs: pip install 'gpa[train,data,eval]', and flite and espeak-ng for two of the teachers. PROCESSES: default 2.
set -euo pipefail
cd "$(dirname "$0")"
work=$1 speech=$2 text=$3 processes=${PROCESSES:-2}
export OMP_NUM_THREADS=1  # one thread a process: spinning threads cost more than they bring
parallel() { torchrun --nproc-per-node "$processes" -m gpa "$@"; }

# 1. Speech. Teachers read sentences, each in two aligned voices; the licence of joe's start is unclear, so joe stays out.
gpa data synth --out "$work/packs" --text "$text" --kind pair --packs 120 --workers "$processes"
gpa data synth --out "$work/packs" --text "$text" --kind heart --first 310 --packs 6
for voice in rms slt awb kal16; do
  gpa data synth --out "$work/packs" --text "$text" --kind "flite-$voice" --first 320 --packs 1
done
gpa data pack "$speech/manifest.jsonl" --out "$work/packs/human_0000" --without heldout_speakers.txt --not-license BY-SA
gpa data pack "$speech/manifest.jsonl" --out "$work/heldout/human" --only heldout_speakers.txt
gpa data testset --text dev_text.txt --out "$work/dev"

#    What the language model hears and never speaks. The tokenizers do not read it: a codec should not learn to make noise.
heard() { [ -e "$work/heard/$1.jsonl" ] || gpa data "${@:2}" --out "$work/heard/$1"; }
heard disturbed_human disturb "$work/packs/human_0000.jsonl"
for pair in pair_00{40..45}; do heard "disturbed_$pair" disturb "$work/packs/$pair.jsonl"; done
heard noise_0000 noise --count 2000 --babble "$work/packs/pair_0046.jsonl"

# 2. Tokenizers. Twenty pair packs are plenty for them.
gpa data features --codec bicodec.yaml --glm glm.json "$work"/packs/{human,heart,flite,pair_000,pair_001}*.jsonl
parallel train tokenizer linguistic linguistic.yaml --work "$work"
parallel train tokenizer codec codec.yaml --work "$work"
parallel train tokenizer codec decoder.yaml --work "$work"

# 3. Language model, on every sentence there is.
gpa data tokenize --codec decoder.yaml --glm linguistic.yaml --work "$work" --out "$work/shards" "$work"/{packs,heard}/*.jsonl
gpa data tokenize --codec decoder.yaml --glm linguistic.yaml --work "$work" --out "$work/held" "$work"/dev/*.jsonl
parallel train lm lm.yaml --work "$work"

# 4. The checkpoint, with its exports, and its scores.
gpa train assemble release.yaml --work "$work" --out "$work/nano" --recipe "$(git rev-parse --short HEAD 2>/dev/null || true)"
gpa convert "$work/nano" --nets int8
gpa eval --checkpoint "$work/nano" --clips "human=$work/heldout/human.jsonl" --text heldout_text.txt --voices amy,ron,kathleen --out "$work/report.json"
