# SPDX-License-Identifier: Apache-2.0
# The first process of a lab machine: sh init.sh PYTHON AGENT LINK. Its root is the host's file
# system, or what is needed of it, read only. It puts a layer of memory over it, so that everything
# can be written and nothing is kept, and hands over to kickbench.lab.inside, which is in the folder
# AGENT. Python gets no packages (-S), because to find them takes long.
#
# A machine of another architecture has a root of its own. This host's files are on the share "host"
# then, and the agent is on the share "agent".
set -e
export PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin
mount -t tmpfs lab /mnt
mkdir /mnt/upper /mnt/work /mnt/root
mount -t overlay -o lowerdir=/,upperdir=/mnt/upper,workdir=/mnt/work lab /mnt/root
cd /mnt/root
# The host's own of these must not be seen.
mount -t proc proc proc
mount -t sysfs sys sys
mount -t devtmpfs dev dev
mkdir -p dev/pts dev/shm
mount -t devpts pts dev/pts
mount -t tmpfs shm dev/shm
mount -t tmpfs run run
mount -t debugfs debug sys/kernel/debug || true
mount -t tracefs trace sys/kernel/tracing || true
if [ ! -d ".$2" ]; then
	mkdir -p host ".$2"
	shared=trans=virtio,version=9p2000.L,msize=512000,cache=loose,ro
	mount -t 9p -o "$shared" host host
	mount -t 9p -o "$shared" agent ".$2"
fi
exec chroot /mnt/root "$1" -E -S -c '
import sys
sys.path.append(sys.argv.pop(1))
from kickbench.lab.inside import main
main()' "$2" "$3"
