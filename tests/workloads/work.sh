# A pipeline, a background job, a coprocess and traps.
trap 'echo usr1 >>traps' USR1
trap 'echo leaving; exit 6' EXIT
(i=0; while [ $i -lt 60 ]; do i=$((i + 1)); echo "background $i" >>background; sleep 0.1; done) &
background=$!
coproc DOUBLE { while read -r n; do echo $((n * 2)); done; }
for ((i = 0; i < 60; i++)); do echo $i; sleep 0.1; done |
    while read -r n; do echo "line $n"; done |
    awk '{ print $2 * $2; fflush() }' | tee squares | sed -u 's/^/square /'
for i in 1 2 3; do
    echo $i >&"${DOUBLE[1]}"
    read -r twice <&"${DOUBLE[0]}"
    echo "twice $twice"
done
kill -USR1 $$
wait $background
echo "background ended by $?"
