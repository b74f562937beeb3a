#!/usr/bin/env bash
# A study on a real SLURM of one node: this machine. Run as root on Debian or Ubuntu:
#
#     scripts/try_slurm.sh [FOLDER]
#
# It installs slurm-wlm and munge, writes /etc/slurm/slurm.conf (the plugin drops SLURM_* variables, so no other place
# will do), starts the three daemons, runs the toy study of tests/toy_study.py as SLURM jobs twice, prints what came of
# it, ends the daemons and removes slurm.conf. One of somebody else's is not touched. There is no accounting, so squeue
# has to tell how jobs ended, and MinJobAge keeps them for it.
set -euo pipefail
here=$(cd "$(dirname "$0")/.." && pwd)
folder=$(mkdir -p "${1:-/tmp/try_slurm}" && cd "${1:-/tmp/try_slurm}" && pwd)
python=${PYTHON:-$here/.venv/bin/python}
mark="# written by try_slurm.sh"
conf=/etc/slurm/slurm.conf
[ "$(id -u)" = 0 ] || { echo "try_slurm.sh: run it as root"; exit 1; }
[ ! -e $conf ] || grep -q "$mark" $conf || { echo "try_slurm.sh: $conf is not mine"; exit 1; }

command -v slurmctld > /dev/null || apt-get install -y --no-install-recommends slurm-wlm munge
name=$(hostname -s)
mkdir -p /etc/slurm /run/munge "$folder/state" "$folder/spool"
cat > $conf <<CONF
$mark
ClusterName=try
SlurmctldHost=$name(127.0.0.1)
SlurmUser=root
AuthType=auth/munge
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
MpiDefault=none
ReturnToService=2
MinJobAge=3600
StateSaveLocation=$folder/state
SlurmdSpoolDir=$folder/spool
SlurmctldPidFile=$folder/slurmctld.pid
SlurmdPidFile=$folder/slurmd.pid
NodeName=$name NodeAddr=127.0.0.1 CPUs=$(nproc) RealMemory=4000 State=UNKNOWN
PartitionName=try Nodes=$name Default=YES MaxTime=INFINITE State=UP
CONF

[ -e /etc/munge/munge.key ] || { dd if=/dev/urandom bs=1 count=1024 > /etc/munge/munge.key 2> /dev/null; }
chown -R munge: /etc/munge /run/munge
chmod 400 /etc/munge/munge.key
started=()
end() { for pid in "${started[@]}"; do kill "$pid" 2> /dev/null || true; done; rm -f $conf; }
trap end EXIT
if [ ! -S /run/munge/munge.socket.2 ] || ! munge -n > /dev/null 2>&1; then
  setpriv --reuid=munge --regid=munge --clear-groups munged --foreground > "$folder/munged.log" 2>&1 & started+=($!)
  until munge -n > /dev/null 2>&1; do sleep 0.2; done
fi
slurmctld -D > "$folder/slurmctld.log" 2>&1 & started+=($!)
slurmd -D > "$folder/slurmd.log" 2>&1 & started+=($!)
until [ "$(sinfo -h -o %t 2> /dev/null)" = idle ]; do sleep 0.5; done
sinfo

export nnUNet_raw=$folder/toy/raw nnUNet_preprocessed=$folder/toy/preprocessed nnUNet_results=$folder/toy/results
if [ ! -e "$folder/toy" ]; then
  (cd "$here/tests" && "$python" -c "from pathlib import Path; from toy_study import make_toy; make_toy(Path('$folder/toy'))")
  sed -i 's/^seeds: .*/seeds: [0]/; $a partition: try' "$folder/toy/toy.yaml"
fi
run() {
  "$python" -m nnunet_instance_trainers.cli study "$folder/toy/toy.yaml" -j 4 --executor slurm \
    --snakemake --slurm-no-account --slurm-init-seconds-before-status-checks 5 --slurm-status-command squeue
}
for time in first second; do
  begun=$(date +%s)
  run > "$folder/$time.log" 2>&1 || { tail -n 20 "$folder/$time.log"; exit 1; }
  submitted=$(grep -c "has been submitted with SLURM jobid" "$folder/$time.log" || true)
  echo "$time run: $submitted SLURM jobs, $(($(date +%s) - begun)) s, $(tail -n 1 "$folder/$time.log")"
done
ls -l "$folder/toy/toy"
