"""A Slurm cluster of two nodes on this machine, run by the current user without system services.

The nodes are daemons on 127.0.0.1 and 127.0.0.2. The addresses are also their names, so that ranks
find each other without a name server. Their GPUs are terminal devices, which every machine has.
"""

from __future__ import annotations

import getpass
import os
import shutil
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from free_ports import free_ports

os.environ["PATH"] += ":/usr/sbin"  # where Debian installs the daemons
NODES = 2

CONFIGURATION = """\
ClusterName=tests
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={port}
SlurmUser={user}
SlurmdUser={user}
AuthType=auth/none
CredType=cred/none
AuthInfo=cred_expire=5
StateSaveLocation={home}/state
SlurmdSpoolDir={home}/spool.%n
SlurmctldPidFile={home}/slurmctld.pid
SlurmdPidFile={home}/slurmd.%n.pid
SlurmctldLogFile={home}/slurmctld.log
SlurmdLogFile={home}/slurmd.%n.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
JobAcctGatherType=jobacct_gather/none
AccountingStorageType=accounting_storage/none
MpiDefault=none
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU_Memory
SchedulerParameters=batch_sched_delay=0,sched_interval=1,bf_interval=1,sched_min_interval=0
SlurmdParameters=config_overrides
SlurmctldParameters=preempt_send_user_signal
PreemptType=preempt/partition_prio
PreemptMode=REQUEUE
KillWait=5
MinJobAge=600
ReturnToService=2
MaxArraySize=2
GresTypes=gpu
"""


def is_installed() -> bool:
    return all(shutil.which(name) for name in ("slurmctld", "slurmd", "sbatch"))


@contextmanager
def cluster(home: Path) -> Iterator[None]:
    """Start the cluster, and set this process's environment for its commands."""
    host = socket.gethostname().split(".")[0]
    port, *node_ports = free_ports(1 + NODES)
    lines = [CONFIGURATION.format(host=host, port=port, user=getpass.getuser(), home=home)]
    for i, node_port in enumerate(node_ports, start=1):
        lines.append(
            f"NodeName=127.0.0.{i} NodeHostname={host} NodeAddr=127.0.0.{i} Port={node_port} "
            "CPUs=8 RealMemory=8000 Gres=gpu:2 State=UNKNOWN\n"
        )
        (home / f"spool.127.0.0.{i}").mkdir(parents=True)
    common = "Nodes=ALL State=UP MaxTime=60"
    lines.append(f"PartitionName=low {common} Default=YES PriorityTier=1 GraceTime=20\n")
    lines.append(f"PartitionName=high {common} PriorityTier=10 PreemptMode=OFF\n")
    (home / "state").mkdir()
    (home / "slurm.conf").write_text("".join(lines))
    (home / "gres.conf").write_text("Name=gpu File=/dev/tty[0-1]\n")
    os.environ["SLURM_CONF"] = str(home / "slurm.conf")
    try:
        run("slurmctld", "-c")
        for i in range(1, NODES + 1):
            run("slurmd", "-N", f"127.0.0.{i}")
        wait_until(lambda: run("sinfo", "-h", "-p", "low", "-t", "idle", "-o", "%D") == str(NODES))
        yield
    finally:
        with suppress(subprocess.SubprocessError):
            run("scancel", "-u", getpass.getuser())
            wait_until(lambda: not run("squeue", "-h"), seconds=30)
        for file in [*home.glob("slurmd.*.pid"), home / "slurmctld.pid"]:
            with suppress(OSError, ValueError):
                os.kill(int(file.read_text()), 15)
        del os.environ["SLURM_CONF"]


def run(*command: str) -> str:
    """Return the output of a command."""
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    if done.returncode:
        raise subprocess.SubprocessError(f"{command}: {done.stderr}")
    return done.stdout.strip()


def wait_until(happens, seconds: float = 180.0) -> float:
    """Wait until a condition holds. Return the seconds that it took."""
    began = time.monotonic()
    while not happens():
        if time.monotonic() - began > seconds:
            raise AssertionError(f"not within {seconds} s")
        time.sleep(0.1)
    return time.monotonic() - began
