# A private Slurm on this machine for tests and comparisons: slurmctld and slurmd as they come from Debian, in a folder of
# their own, nothing of it the system's. Sourced, not run; needs root (slurmd does).
#   slurm_find              sets the programs' paths; false when one is missing (SLURM_ROOT: unpacked packages)
#   slurm_start DIR NODES CPUS [LINES]  starts it (n0, n1, …) and waits until all nodes are idle; exports SLURM_CONF.
#                           LINES: further lines of slurm.conf. Process ids are in $slurm_pids
#   slurm_stop              ends it
# shellcheck shell=sh
slurm_pids=''
slurm_program() {
    for p in "${SLURM_ROOT:-}/usr/sbin/$1-wlm" "${SLURM_ROOT:-}/usr/sbin/$1" "${SLURM_ROOT:-}/usr/bin/$1"; do
        [ ! -x "$p" ] || { echo "$p"; return 0; }
    done
    return 1
}
slurm_find() {
    slurm_lib=${SLURM_ROOT:-}/usr/lib/x86_64-linux-gnu/slurm-wlm
    ctld=$(slurm_program slurmctld) && slurmd=$(slurm_program slurmd) && stepd=$(slurm_program slurmstepd) &&
        sbatch=$(slurm_program sbatch) && squeue=$(slurm_program squeue) && sinfo=$(slurm_program sinfo)
}
slurm_start() {
    dir=$1 nodes=$2 cpus=$3
    mkdir -p "$dir/state"
    cat >"$dir/slurm.conf" <<CONF
ClusterName=small
SlurmctldHost=$(hostname)(127.0.0.1)
SlurmUser=root
SlurmctldPort=${SLURM_PORT:-26817}
AuthType=auth/none
CredType=cred/none
PluginDir=$slurm_lib
StateSaveLocation=$dir/state
SlurmdSpoolDir=$dir/spool-%n
SlurmctldPidFile=$dir/ctld.pid
SlurmdPidFile=$dir/slurmd-%n.pid
SlurmctldLogFile=$dir/ctld.log
SlurmdLogFile=$dir/slurmd-%n.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SwitchType=switch/none
MpiDefault=none
ReturnToService=2
SlurmdParameters=config_overrides
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU
SchedulerType=sched/backfill
SchedulerParameters=bf_interval=1,bf_resolution=1,bf_window=60,sched_interval=1,batch_sched_delay=0
PriorityType=priority/basic
KillWait=2
MinJobAge=3000
${4:-}
CONF
    i=0 names=''
    while [ $i -lt "$nodes" ]; do
        echo "NodeName=n$i NodeHostname=$(hostname) NodeAddr=127.0.0.1 Port=$((${SLURM_PORT:-26817} + 3 + i)) CPUs=$cpus RealMemory=1000" >>"$dir/slurm.conf"
        names="$names${names:+,}n$i"
        i=$((i + 1))
    done
    echo "PartitionName=all Nodes=$names Default=YES MaxTime=INFINITE State=UP" >>"$dir/slurm.conf"
    export SLURM_CONF="$dir/slurm.conf" LD_LIBRARY_PATH="$slurm_lib:${SLURM_ROOT:-}/usr/lib/x86_64-linux-gnu"
    "$ctld" -D -f "$SLURM_CONF" >"$dir/ctld.out" 2>&1 &
    slurm_pids="$slurm_pids $!"
    i=0
    while [ $i -lt "$nodes" ]; do
        mkdir -p "$dir/spool-n$i"
        "$slurmd" -D -N n$i -d "$stepd" -f "$SLURM_CONF" >"$dir/n$i.out" 2>&1 &
        slurm_pids="$slurm_pids $!"
        i=$((i + 1))
    done
    i=0
    while [ "$("$sinfo" -h -t idle -o %D 2>/dev/null || true)" != "$nodes" ]; do
        i=$((i + 1))
        if [ $i -gt 60 ]; then
            tail -n 5 "$dir"/*.out "$dir"/*.log >&2
            return 1
        fi
        sleep 1
    done
}
slurm_stop() {
    for p in $slurm_pids; do kill "$p" 2>/dev/null || true; done
    slurm_pids=''
}
