#!/usr/bin/env bash
# The whole path on a simulated log and a small stand-in backbone: log, train, export, predict, bench.
# usage: benchmarks/demo.sh OUT [extra `edgeb train` flags, for example --set a_tuning.epochs=1]
set -euo pipefail
OUT=${1:?usage: demo.sh OUT}
shift
if [ -e "$OUT" ]; then
    echo "demo: $OUT exists; remove it or run make demo OUT=another" >&2
    exit 2
fi
mkdir -p "$OUT"
say() { printf '\n\033[1m%s\033[0m\n' "$*"; }

say "1/6  A log of simulated phone users"
edgeb data synth --users 400 --days 28 --seed 1 --out "$OUT/data"
edgeb data describe "$OUT/data" --png "$OUT/distribution.png" --top 12

say "2/6  Train: stand-in backbone, A-Tuning on anchors, B-Tuning by DPO"
edgeb train --recipe tiny --data "$OUT/data" --out "$OUT/run" "$@"

say "3/6  Export: merge, convert, quantize, prove"
edgeb export "$OUT/run" --quant q4 --out "$OUT/behavior.gguf"

say "4/6  Predict: Monday evening, at home"
cat > "$OUT/today.csv" <<'CSV'
timestamp,place,behavior
2024-03-18T07:05,home,Weather Check
2024-03-18T07:20,home,News
2024-03-18T08:10,transit,Music
2024-03-18T12:15,work,Short Video
2024-03-18T12:32,work,Short Video
2024-03-18T18:20,transit,Music
2024-03-18T19:40,home,Short Video
CSV
edgeb predict "$OUT/behavior.gguf" --history "$OUT/today.csv" --at 2024-03-18T20:05 --place home

say "5/6  The same as JSON, for a program"
edgeb predict "$OUT/behavior.gguf" --history "$OUT/today.csv" --at 2024-03-18T20:05 --place home --top 2 --json

say "6/6  Bench: what a prediction costs here"
edgeb bench "$OUT/behavior.gguf" --repeats 30

say "Done. Look at:"
echo "  $OUT/distribution.png   how often each behavior occurs"
echo "  $OUT/run/report.html    curves, both stages' effect on head, medium and tail, the selected pairs"
echo "  $OUT/behavior.gguf      the bundle: one file, stock llama.cpp loads it"
echo
echo "The assistant as a page in your browser, with the day from step 4:"
echo "  $(command -v edgeb) demo $OUT/behavior.gguf --history $OUT/today.csv"
