#!/bin/sh
# Make this machine a SLURM cluster of one node, to run tests/studies/test_launchers.py on. For CI; as root, on Debian or Ubuntu:
# apt-get install munge slurmctld slurmd slurm-client
set -eu
node=$(hostname -s)
install -d -m 755 /etc/slurm /var/spool/slurmctld /var/spool/slurmd /run/munge
cat > /etc/slurm/slurm.conf <<END
ClusterName=one
SlurmctldHost=$node
SlurmUser=root
AuthType=auth/munge
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU
JobAcctGatherType=jobacct_gather/none
AccountingStorageType=accounting_storage/none
MpiDefault=none
ReturnToService=2
StateSaveLocation=/var/spool/slurmctld
SlurmdSpoolDir=/var/spool/slurmd
SlurmctldPidFile=/run/slurmctld.pid
SlurmdPidFile=/run/slurmd.pid
SlurmctldLogFile=/var/log/slurmctld.log
SlurmdLogFile=/var/log/slurmd.log
NodeName=$node CPUs=$(nproc) State=UNKNOWN
PartitionName=all Nodes=$node Default=YES MaxTime=INFINITE State=UP
END
test -s /etc/munge/munge.key || /usr/sbin/mungekey --create
chown -R munge: /etc/munge /run/munge
pgrep -x munged > /dev/null || su -s /bin/sh munge -c /usr/sbin/munged
slurmctld -c
slurmd -c
for _ in $(seq 30); do
  if [ "$(sinfo --noheader --format %T)" = idle ]; then sinfo; exit 0; fi
  sleep 1
done
sinfo
tail -n 20 /var/log/slurmctld.log /var/log/slurmd.log
exit 1
