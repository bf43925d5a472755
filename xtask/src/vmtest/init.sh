#!/bin/busybox sh
# First process of the test machine: mounts what a host has, runs the tests, powers off.
#
# Set by the kernel's command line: HOSTSCOPE_VM (which kernel this is) and FILTER (a part of test names, or nothing).
# The results go to the second serial port, so that no message of the kernel falls into them.
/bin/busybox --install -s /bin
export PATH=/bin HOME=/tmp

mount -t devtmpfs dev /dev
exec </dev/null >/dev/ttyS1 2>&1
mkdir -p /dev/shm /dev/pts /run
mount -t proc proc /proc
mount -t sysfs sys /sys
mount -t tracefs tracing /sys/kernel/tracing
mount -t cgroup2 cgroup /sys/fs/cgroup
mount -t bpf bpf /sys/fs/bpf
mount -t devpts pts /dev/pts
mount -t tmpfs tmp /tmp
mount -t tmpfs shm /dev/shm
ifconfig lo 127.0.0.1 up
hostname vm
# Kernels before 5.11 count maps against it.
ulimit -l unlimited

export HOSTSCOPE_BIN=/bin/hostscope HOSTSCOPE_WORKLOADS=/workloads HOSTSCOPE_SKIPPED_FILE=/tmp/skipped-tests
export HOSTSCOPE_EBPF_OBJECT=/hostscope.bpf.o
export RUST_TEST_THREADS=1 RUST_BACKTRACE=1
touch "$HOSTSCOPE_SKIPPED_FILE"
cd /tmp
for program in /tests/*; do
    "$program" $FILTER
    echo "vm: $program ended with $?"
done
sed 's/^/vm: skipped /' "$HOSTSCOPE_SKIPPED_FILE"
echo "vm: done"
sync
poweroff -f
