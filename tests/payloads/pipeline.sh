#!/bin/bash
# Programs that are executed after a move are the next host's own.
trap 'echo asked' USR1
total=0
for step in $(seq 60); do
    n=$(printf '%s\n' "$step" 3 2 1 | sort -n | tail -n 1)
    total=$((total + n))
    echo "step $step total $total" | sed 's/total/sum/' | tee -a log
    sleep 0.08
done
exit 42
