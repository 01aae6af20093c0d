#!/bin/dash
# The first process of a system test's VM: what a Debian's own init would have set up, and no more. Then it
# hands over to control.sh, through which the test drives this VM.
export PATH=/usr/sbin:/usr/bin:/sbin:/bin:/usr/lib/casemate-test HOME=/root LANG=C.UTF-8
mount -t proc proc /proc
mount -t sysfs sysfs /sys
mountpoint -q /dev || mount -t devtmpfs devtmpfs /dev
mkdir -p /dev/pts /dev/shm
mount -t devpts devpts /dev/pts
mount -t tmpfs -o mode=1777 tmpfs /dev/shm
mount -t tmpfs -o mode=0755 tmpfs /run
mount -t tmpfs -o mode=1777 tmpfs /tmp
mount -o remount,rw /
mkdir -p /run/lock /run/cryptsetup
ln -sf /proc/mounts /etc/mtab
ln -s /proc/self/fd /dev/fd
hostname casemate-vm
dash /usr/lib/casemate-test/network.sh
# Whoever ends while nobody waits is this process's to reap: dash does so while it waits for control.sh.
while :; do
  busybox ash /usr/lib/casemate-test/control.sh
  sleep 0.2
done
