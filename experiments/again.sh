#!/bin/sh
# The figures of docs/correctness.md that change with the embedded checkpoint, on few texts: about five minutes of two processors.
#
#     sh experiments/again.sh HUMAN.jsonl CACHE OUT
#
# HUMAN.jsonl is a manifest of clips of people that were not trained on; CACHE keeps the judge (Whisper-base); OUT gets a file for each figure
# and must be new: readings of the checkpoint's own voices are kept there.
set -eu
human=$1 cache=$2 out=$3 here=$(dirname "$0")
mkdir "$out"
export OMP_NUM_THREADS=1
python "$here/adversarial/run.py" 300 16 >"$out/adversarial.txt"
{
    python "$here/self_check/takes.py" "$cache" "$out/takes.jsonl" "$here/../recipes/nano/heldout_text.txt" 60 3
    python "$here/self_check/choose.py" "$out/takes.jsonl" >"$out/self_check.txt"
} &
check=$!
python "$here/no_speech/run.py" "$human" 3 50 >"$out/no_speech.txt"
python "$here/consent/run.py" "$human" "$out/consent" >"$out/consent.txt"
wait $check
grep -h "texts,\|length over" "$out/adversarial.txt"
grep -h "first takes\|CER - confidence / 2, good 0.1, 3 tries" "$out/self_check.txt"
grep -h "sounds;\|clips of speech\|crowd" "$out/no_speech.txt"
grep -h "accepted\|at once" "$out/consent.txt"
