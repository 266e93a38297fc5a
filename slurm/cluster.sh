#!/bin/bash
# A real Slurm of several nodes on this one machine, for tests. Debian or Ubuntu, as root.
#
#   cluster.sh install         install what is missing (apt-get, 61 MB)
#   cluster.sh up              start everything, wait until all nodes are idle
#   cluster.sh down            SIGKILL everything and remove $SVDSTORY_CLUSTER
#   cluster.sh show            which daemons live, and sinfo
#   cluster.sh node N off|on   cut node N's power (every process of it, by one SIGKILL) | switch it on again
#   cluster.sh node N hang|wake   it neither answers nor dies (a lost network) | it goes on where it was
#   cluster.sh node N enter CMD...   run CMD inside the node: its processes, its mounts
#   cluster.sh ctld off|on     slurmctld by SIGKILL | again, from its saved state
#   cluster.sh dbd off|on      slurmdbd likewise
#
# Before submitting:  export SLURM_CONF=$SVDSTORY_CLUSTER/etc/slurm.conf
# Settings, by environment (a second cluster wants another folder and another port):
set -euo pipefail
DIR=${SVDSTORY_CLUSTER:-/tmp/svdstory-cluster}   # short: UNIX sockets live below it, 108 bytes at most
PORT=${SVDSTORY_CLUSTER_PORT:-27400}             # TCP ports PORT .. PORT+10+NODES of 127.0.0.1
NODES=${SVDSTORY_CLUSTER_NODES:-4}               # the first half has feature type_a, the rest type_b; each its own name
GPUS=${SVDSTORY_CLUSTER_GPUS:-4}                 # pretended v100 on each node
MAX_ARRAY=${SVDSTORY_CLUSTER_MAX_ARRAY:-1001}    # MaxArraySize: the highest array index is one less
ACCOUNTING=${SVDSTORY_CLUSTER_ACCOUNTING:-yes}   # yes: slurmdbd on MariaDB, so that sacct works | no
export SVDSTORY_CLUSTER=$DIR SLURM_CONF=$DIR/etc/slurm.conf PATH=$PATH:/usr/sbin:/sbin

die() { echo "cluster.sh: $*" >&2; exit 1; }

# ---------------------------------------------------------------- packages

root() { [ "$(id -u)" = 0 ] || die "must be root: nodes need namespaces of their own (here: uid $(id -u))"; }
programs() {    # those that are absent
  local name wanted=(slurmctld slurmd sbatch munged)
  [ "$ACCOUNTING" = no ] || wanted+=(slurmdbd mariadbd)
  for name in "${wanted[@]}"; do command -v "$name" >/dev/null || echo "$name"; done
}
install() {
  root
  [ -n "$(programs)" ] || return 0
  local want=(slurmctld slurmd slurm-client munge slurmdbd mariadb-server-core)
  command -v apt-get >/dev/null || die "needs Debian or Ubuntu: no apt-get to install ${want[*]} with"
  # a policy that starts no service: the packages' own munged and slurmd are not ours
  local policy=/usr/sbin/policy-rc.d mine=
  [ -e $policy ] || { mine=1; printf '#!/bin/sh\nexit 101\n' > $policy; chmod 755 $policy; }
  DEBIAN_FRONTEND=noninteractive apt-get update -qq
  DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends "${want[@]}"
  [ -z "$mine" ] || rm -f $policy
}

# ---------------------------------------------------------------- configuration

slurm_conf() {
  cat <<X
ClusterName=svdstory
SlurmctldHost=$(hostname -s)(127.0.0.1)
SlurmctldPort=$PORT
SlurmUser=root
SlurmdUser=root
StateSaveLocation=$DIR/state
SlurmdSpoolDir=$DIR/spool/%n
SlurmctldPidFile=$DIR/run/slurmctld.pid
SlurmdPidFile=$DIR/run/slurmd-%n.pid
SlurmctldLogFile=$DIR/log/slurmctld.log
SlurmdLogFile=$DIR/log/slurmd-%n.log
AuthType=auth/munge
CredType=cred/munge
# cred_expire: a requeued job may not start again before it; 120 s by default
AuthInfo=socket=$DIR/run/munge.sock,cred_expire=5
MpiDefault=none
SwitchType=switch/none
MailProg=/bin/true
# no cgroups (containers seldom let us): memory is policed by sampling it
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
JobAcctGatherType=jobacct_gather/linux
JobAcctGatherFrequency=task=1
JobAcctGatherParams=OverMemoryKill
# scheduling: at once; a higher partition preempts, with the job's own warning signal first
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU_Memory
SchedulerType=sched/backfill
SchedulerParameters=batch_sched_delay=0,sched_interval=1,bf_interval=1,max_array_tasks=$MAX_ARRAY
PriorityType=priority/basic
PreemptType=preempt/partition_prio
PreemptMode=REQUEUE
SlurmctldParameters=preempt_send_user_signal
MaxArraySize=$MAX_ARRAY
JobRequeue=1
ReturnToService=2
# faults are seen within seconds
SlurmctldTimeout=30
SlurmdTimeout=8
MessageTimeout=5
KillWait=2
InactiveLimit=0
Waittime=0
# a node whose job waits for an absent slurmctld (60 s between tries) is not to be drained for it
UnkillableStepTimeout=180
# nodes claim more processors and memory than the machine has
SlurmdParameters=config_overrides
GresTypes=gpu
X
  if [ "$ACCOUNTING" = no ]; then
    echo "AccountingStorageType=accounting_storage/none"
  else
    # the socket a second time: slurmctld talks to slurmdbd by AccountingStoragePass, or dies of "no TRES"
    cat <<X
AccountingStorageType=accounting_storage/slurmdbd
AccountingStorageHost=127.0.0.1
AccountingStoragePort=$((PORT+1))
AccountingStoragePass=$DIR/run/munge.sock
AccountingStorageTRES=gres/gpu,gres/gpu:v100
AccountingStorageEnforce=associations,limits,qos,wckeys
TrackWCKey=yes
X
  fi
  echo "NodeName=DEFAULT CPUs=8 RealMemory=32000 Gres=gpu:v100:$GPUS State=UNKNOWN"
  local i feature
  for ((i=1; i<=NODES; i++)); do
    feature=type_a; ((2*i > NODES+1)) && feature=type_b
    echo "NodeName=n$i NodeHostname=n$i NodeAddr=127.0.0.1 Port=$((PORT+10+i)) Feature=$feature,n$i"
  done
  cat <<X
PartitionName=DEFAULT Nodes=ALL MaxTime=1-0 DefaultTime=10 DefMemPerCPU=500 State=UP
PartitionName=gpu  Default=YES PriorityTier=1 GraceTime=20
PartitionName=high Default=NO  PriorityTier=10 PreemptMode=OFF
X
  # a partition whose users may have three jobs queued, as on busy clusters
  [ "$ACCOUNTING" = no ] || echo "PartitionName=capped Default=NO PriorityTier=1 GraceTime=20 QOS=three"
}

configure() {
  mkdir -p "$DIR"/{etc,run,log,db,dev,state,spool,munge}
  chmod 755 "$DIR" "$DIR"/{run,log,state,spool}
  chmod 700 "$DIR"/{munge,db}
  [ -s "$DIR/munge/key" ] || (umask 077; head -c 128 /dev/urandom > "$DIR/munge/key")
  slurm_conf > "$DIR/etc/slurm.conf"
  # a GPU's file must be a character device, else CUDA_VISIBLE_DEVICES is not set; links to /dev/null are
  local i
  for ((i=0; i<GPUS; i++)); do ln -sfn /dev/null "$DIR/dev/nvidia$i"; done
  printf 'AutoDetect=off\nName=gpu Type=v100 File=%s\n' "$DIR/dev/nvidia[0-$((GPUS-1))]" > "$DIR/etc/gres.conf"
  echo "CgroupAutomount=no" > "$DIR/etc/cgroup.conf"
  { cat /etc/hosts; for ((i=1; i<=NODES; i++)); do echo "127.0.0.1 n$i"; done; } > "$DIR/etc/hosts"
  (umask 077; cat > "$DIR/etc/slurmdbd.conf") <<X
DbdHost=localhost
DbdAddr=127.0.0.1
DbdPort=$((PORT+1))
SlurmUser=root
AuthType=auth/munge
AuthInfo=socket=$DIR/run/munge.sock
PidFile=$DIR/run/slurmdbd.pid
LogFile=$DIR/log/slurmdbd.log
StorageType=accounting_storage/mysql
StorageHost=localhost
StorageUser=root
StorageLoc=slurm_acct
TrackWCKey=yes
X
}

# ---------------------------------------------------------------- daemons

# the daemon's pid, if it lives: not a zombie, and started by this cluster (pids are used again)
living() {
  local pid
  pid=$(cat "$DIR/run/$1.daemon" 2>/dev/null) || return 1
  grep -q '^State:.[^ZX]' "/proc/$pid/status" 2>/dev/null || return 1
  grep -qzFx "SVDSTORY_CLUSTER=$DIR" "/proc/$pid/environ" 2>/dev/null || return 1
  echo "$pid"
}
daemon() {      # daemon NAME CMD...: in a session of its own
  local name=$1; shift
  ! living "$name" >/dev/null || die "$name is running already"
  setsid "$@" </dev/null >>"$DIR/log/$name.out" 2>&1 &
  echo $! > "$DIR/run/$name.daemon"
}
wait_for() {    # wait_for WHAT SECONDS CMD...
  local what=$1 end=$((SECONDS+$2)); shift 2
  until "$@" >/dev/null 2>&1; do
    ((SECONDS < end)) || die "waited in vain for $what; see $DIR/log"
    sleep 0.1
  done
}
dead() { ! living "$1"; }
stop() {        # stop NAME...: by SIGKILL
  local name pid
  for name; do pid=$(living "$name") && kill -KILL "$pid" || true; done
  for name; do wait_for "$name to end" 10 dead "$name"; done
}
listens() { (exec 3<>"/dev/tcp/127.0.0.1/$1") 2>/dev/null; }

munge_on() {
  rm -f "$DIR"/run/munge.sock*
  daemon munged munged -F --socket="$DIR/run/munge.sock" --key-file="$DIR/munge/key" \
    --pid-file="$DIR/munge/pid" --seed-file="$DIR/munge/seed" --log-file="$DIR/munge/log"
  wait_for munged 10 test -S "$DIR/run/munge.sock"
}
database_on() { # no TCP, no password: root by the socket's peer credentials
  local sql=/usr/share/mysql options=(--no-defaults --user=root "--datadir=$DIR/db" --innodb-buffer-pool-size=64M
    --innodb-log-file-size=32M --innodb-lock-wait-timeout=900 --innodb-flush-log-at-trx-commit=0
    --skip-log-bin --performance-schema=OFF)
  # as mariadb-install-db would, which needs packages that the server's core does not bring
  [ -d "$DIR/db/mysql" ] || {
      printf 'create database mysql;\nuse mysql;\nSET @auth_root_socket="root";\n'
      cat $sql/mysql_system_tables.sql $sql/mysql_system_tables_data.sql
    } | mariadbd "${options[@]}" --bootstrap >"$DIR/log/mariadb-bootstrap.out" 2>&1
  rm -f "$DIR/run/mysql.sock"
  daemon mariadbd mariadbd "${options[@]}" --skip-networking --socket="$DIR/run/mysql.sock" \
    --pid-file="$DIR/run/mariadbd.pid" --log-error="$DIR/log/mariadbd.log"
  wait_for mariadbd 30 test -S "$DIR/run/mysql.sock"
}
dbd_on() {
  MYSQL_UNIX_PORT=$DIR/run/mysql.sock daemon slurmdbd slurmdbd -D
  wait_for slurmdbd 60 listens $((PORT+1))
}
limits() {      # who may submit, under which account, key and cap
  sacctmgr -Q -i add cluster svdstory >/dev/null 2>&1 || true
  sacctmgr -Q -i add qos three set MaxSubmitJobsPerUser=3 >/dev/null 2>&1 || true
  sacctmgr -Q -i add account lab >/dev/null 2>&1 || true
  sacctmgr -Q -i add user root account=lab wckeys=study >/dev/null 2>&1 || true
}
ctld_on() { daemon slurmctld slurmctld -D; wait_for slurmctld 30 scontrol ping; }
node_on() {     # bash is the node's init: it reaps orphans; unshare's death is the death of all processes on it
  daemon "node$1" unshare --pid --fork --kill-child=KILL --mount-proc --uts -- bash -c '
    hostname "$0"; mount --bind "$1" /etc/hosts
    slurmd -D -N "$0" & while kill -0 $! 2>/dev/null; do wait; done' "n$1" "$DIR/etc/hosts"
}
node_init() { pgrep -P "$(living "node$1")"; }
in_node() { local n=$1; shift; nsenter -t "$(node_init "$n")" -p -m -u -- "$@"; }
all_idle() { [ "$(sinfo -h -N -t idle -p gpu -o %N | sort -u | wc -l)" = "$NODES" ]; }
daemons() { echo munged mariadbd slurmdbd slurmctld; local i; for ((i=1; i<=NODES; i++)); do echo "node$i"; done; }

# ---------------------------------------------------------------- commands

up() {
  root
  [ -z "$(programs)" ] || die "not here: $(programs | tr '\n' ' ')- install them: slurm/cluster.sh install"
  configure
  munge_on
  if [ "$ACCOUNTING" != no ]; then database_on; dbd_on; limits; fi
  ctld_on
  local i
  for ((i=1; i<=NODES; i++)); do node_on "$i"; done
  wait_for "$NODES idle nodes" 60 all_idle
  echo "export SLURM_CONF=$SLURM_CONF"
}
down() { stop $(daemons | tac); rm -rf --one-file-system "$DIR"; }
show() {
  local name
  for name in $(daemons); do living "$name" >/dev/null && echo "$name lives" || echo "$name is dead"; done
  sinfo -N -l
}
node() {
  local n=$1 what=$2; shift 2
  case $what in
    off) stop "node$n" ;;
    on) node_on "$n" ;;
    hang) in_node "$n" bash -c 'kill -STOP -1' ;;
    wake) in_node "$n" bash -c 'kill -CONT -1' ;;
    enter) in_node "$n" "$@" ;;
    *) die "node $n $what: expected off, on, hang, wake or enter" ;;
  esac
}

case "${1:-} ${2:-}" in
  "install "|"up "|"down "|"show ") "$1" ;;
  "node "?*) shift; node "$@" ;;
  "ctld off") stop slurmctld ;;
  "ctld on") ctld_on ;;
  "dbd off") stop slurmdbd ;;
  "dbd on") dbd_on ;;
  *) sed -n '2,/^set/{/^set/d;s/^# \{0,1\}//;p}' "$0"; exit 2 ;;
esac
