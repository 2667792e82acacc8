#!/usr/bin/env bash
# From nothing to the embedded checkpoint. Every step goes on where it was stopped; run it again after an interruption.
#
#   recipes/nano/train.sh WORK SPEECH TEXT
#   recipes/nano/train.sh --rehearse WORK SPEECH TEXT     the whole road in minutes, with counts that teach nothing
#
# WORK    folder for everything that is made (about 30 GB for the full recipe)
# SPEECH  folder with a manifest.jsonl of human recordings; share-alike ones are left out below (all of it is packed, even
#         in a rehearsal: give that a small one)
# TEXT    sentences, one a line (.gz is read too); the last 1000 are never used
#
# Needs: pip install 'gpa[train,data,eval]', and flite for some of the teachers. PROCESSES: default 2.
set -euo pipefail
rehearsal=; [ "$1" = --rehearse ] && rehearsal=yes && shift
work=$(realpath -m "$1") speech=$(realpath "$2") text=$(realpath "$3") processes=${PROCESSES:-2}
cd "$(dirname "$0")"
export OMP_NUM_THREADS=1  # one thread a process: spinning threads cost more than they bring
commit=$(git rev-parse --short HEAD 2>/dev/null || true)
mkdir -p "$work"

pairs=48 hearts=6 size=500 prepared='human heart flite pair_000 pair_001 pair_002' listened='40 41' crowd=46 empty='1000 600'
if [ "$rehearsal" ]; then  # the same files with small numbers
  processes=1 pairs=1 hearts=1 size=12 prepared='human heart flite pair' listened=0 crowd=0 empty='14 7'
  mkdir -p "$work/recipe" && cp ./* "$work/recipe" && cd "$work/recipe"
  sed -i -E 's/( +)steps: .*/\1steps: 3/' ./*.yaml
  sed -i 's/  steps: 3/&\n  warm: 1/' codec.yaml linguistic.yaml
  sed -i 's/  steps: 3/&\n  compile: false/' lm.yaml
  sed -i 7q dev_text.txt
fi
parallel() { if [ "$processes" = 1 ]; then gpa "$@"; else torchrun --nproc-per-node "$processes" -m gpa "$@"; fi; }
pack() { [ -e "$work/$1.jsonl" ] || gpa data "${@:2}" --out "$work/$1"; }  # NAME VERB ...: once

# 1. Speech. Teachers read sentences, each in two aligned voices; the licence of joe's start is unclear, so joe stays out.
synth() { gpa data synth --out "$work/packs" --text "$text" --size "$size" --workers "$processes" "$@"; }
synth --kind pair --packs "$pairs"
synth --kind heart --first 310 --packs "$hearts"
number=320
for voice in rms slt awb kal16; do synth --kind "flite-$voice" --first $((number++)); done
pack recorded/human pack "$speech/manifest.jsonl" --without heldout_speakers.txt --not-license BY-SA
pack packs/human_0000 shift "$work/recorded/human.jsonl"  # and all of it in second voices: pairs of people
pack heldout/human pack "$speech/manifest.jsonl" --only heldout_speakers.txt
gpa data testset --text dev_text.txt --voices heart@1.0,h007,h150,flite-rms@1.0 --out "$work/dev"

#    What the language model hears and never speaks. The tokenizers do not read it: a codec should not learn to make noise.
for seed in 0 1; do pack heard/disturbed_human_$seed disturb "$work/recorded/human.jsonl" --seed $seed; done
for number in $listened; do
  pair=$(printf pair_%04d "$number")
  pack "heard/disturbed_$pair" disturb "$work/packs/$pair.jsonl"
done
seed=0
for count in $empty; do
  pack "$(printf heard/noise_%04d $seed)" noise --count "$count" --seed $((seed++)) --babble "$(printf "$work/packs/pair_%04d.jsonl" "$crowd")"
done

# 2. Tokenizers. Some twenty pair packs are plenty for them.
packs=()
for kind in $prepared; do packs+=("$work/packs/$kind"*.jsonl); done
gpa data features --codec bicodec.yaml --glm glm.json "${packs[@]}"
parallel train tokenizer linguistic linguistic.yaml --work "$work"
parallel train tokenizer codec codec.yaml --work "$work"
parallel train tokenizer codec decoder.yaml --work "$work"

# 3. Language model, on every sentence there is; then the sound.
tokenize() { gpa data tokenize --codec decoder.yaml --glm linguistic.yaml --work "$work" "$@"; }
tokenize --out "$work/shards" "$work"/{packs,heard}/*.jsonl
tokenize --out "$work/held" "$work"/dev/*.jsonl
parallel train lm lm.yaml --work "$work"
parallel train verifier verifier.yaml --work "$work"  # hears whose voice it is in what follows
parallel train tokenizer codec polish.yaml --work "$work"  # the sound alone: codes stay as they were tokenised

# 4. What is likely to be said, of all sentences but those that share words with a test.
[ -e "$work/ngrams.npz" ] || gpa data ngrams --text "$text" --without heldout_text.txt --without dev_text.txt \
  --without "$work/heldout/human.jsonl" --out "$work/ngrams.npz"

# 5. The checkpoint, with its exports, and its scores.
if [ "$rehearsal" ]; then  # such small packs hold few of the voices
  while IFS= read -r line; do
    if [[ $line =~ pack:\ ([^,]+),\ speaker:\ ([^}]+) ]]; then
      grep -qs "\"speaker\": \"${BASH_REMATCH[2]}\"" "$work/packs/${BASH_REMATCH[1]}.jsonl" || continue
    fi
    echo "$line"
  done < release.yaml > rehearsed.yaml
  mv rehearsed.yaml release.yaml
fi
gpa train assemble release.yaml --work "$work" --out "$work/nano" --recipe "$commit"
gpa convert "$work/nano" --nets int8
if [ "$rehearsal" ]; then
  exec gpa tts "A rehearsal." --checkpoint "$work/nano" --out "$work/rehearsal.wav"
fi
gpa eval --checkpoint "$work/nano" --clips "human=$work/heldout/human.jsonl" --text heldout_text.txt --voices amy,ron,kathleen --out "$work/report.json"
