#!/usr/bin/env bash
# The Foursquare-NYC log through the whole path, as its user would do it. About an hour on two CPU cores.
# usage: benchmarks/foursquare.sh dataset_TSMC2014_NYC.txt[.gz] OUT
set -euo pipefail
LOG=${1:?usage: foursquare.sh LOG OUT}
OUT=${2:?usage: foursquare.sh LOG OUT}
edgeb data import "$LOG" --format tsmc2014 --out "$OUT/data"
edgeb train --recipe tiny-foursquare --data "$OUT/data" --out "$OUT/run" --set threads=1
edgeb export "$OUT/run" --quant q4 --out "$OUT/nyc.gguf"
cat > "$OUT/user.csv" <<'CSV'
timestamp,place,behavior
2012-04-30T08:45,JG,Office
2012-04-30T12:30,JG,Coffee Shop
2012-04-30T19:10,JH,Gym / Fitness Center
2012-05-01T08:50,JG,Office
CSV
edgeb predict "$OUT/nyc.gguf" --history "$OUT/user.csv" --at 2012-05-01T18:00 --place JH
edgeb evaluate "$OUT/nyc.gguf" --data "$OUT/data" --limit 300
cp "$OUT/run/metrics.json" benchmarks/results/foursquare-nyc.json
