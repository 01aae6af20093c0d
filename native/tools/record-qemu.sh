#!/bin/sh
# Boots a QEMU processor model without hardware virtualization and records it with casemate-probe --record.
#
#   record-qemu.sh KERNEL_DIR MODEL OUTPUT_DIR [swap] [tpm] [-- more QEMU arguments]
#
# KERNEL_DIR is an unpacked Debian linux-image package (dpkg -x). Needs qemu-system-x86_64, busybox (static), cpio,
# kmod, musl-gcc; swtpm for "tpm". Used by hand to make test/fixtures/machines; see SOURCES.md there.
set -eu

kernel_dir=$1 model=$2 output=$3
shift 3
swap='' tpm=''
while [ $# -gt 0 ]; do
  case $1 in
    swap) swap=1 ;;
    tpm) tpm=1 ;;
    --) shift; break ;;
  esac
  shift
done

native=$(cd "$(dirname "$0")/.." && pwd)
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
make -s -C "$native" CC=musl-gcc BUILD=build/musl LDFLAGS=-static HARDENING=-fstack-protector-strong probe

kver=$(ls "$kernel_dir/lib/modules")
depmod -b "$kernel_dir" "$kver"
root=$work/root
mkdir -p "$root/bin" "$root/proc" "$root/sys" "$root/dev" "$root/lib/modules" "$root/etc"
cp "$(command -v busybox)" "$root/bin/busybox"
cp "$native/build/musl/casemate-probe" "$root/bin/"
for module in msr cpuid virtio_pci virtio_blk kvm_amd kvm_intel; do
  modprobe -n -D -d "$kernel_dir" -S "$kver" "$module" 2>/dev/null
done | sed -n 's/^insmod //p' | awk '!seen[$1]++ { print $1 }' > "$work/modules"
: > "$root/etc/modules"
while read -r module; do
  cp "$module" "$root/lib/modules/"
  basename "$module" >> "$root/etc/modules"
done < "$work/modules"
cat > "$root/init" <<'INIT'
#!/bin/busybox sh
b=/bin/busybox
$b mount -t proc proc /proc; $b mount -t sysfs sys /sys; $b mount -t devtmpfs dev /dev
$b mount -t securityfs security /sys/kernel/security
$b mount -t configfs config /sys/kernel/config
while read -r m; do $b insmod /lib/modules/$m 2>/dev/null; done < /etc/modules
[ -b /dev/vda ] && $b mkswap /dev/vda >/dev/null && $b swapon /dev/vda
$b mkdir /tmp
/bin/casemate-probe --record /tmp/recording 2>/dev/console
$b tar -C /tmp/recording -cf - . | $b base64 > /dev/ttyS1
echo END > /dev/ttyS1
$b sync; echo o > /proc/sysrq-trigger; $b sleep 60
INIT
chmod 755 "$root/init"
(cd "$root" && find . | cpio -o -H newc --quiet) > "$work/initrd"

if [ -n "$swap" ]; then
  truncate -s 64M "$work/swap.img"
  set -- "$@" -drive "file=$work/swap.img,format=raw,if=none,id=d0,cache=unsafe" -device virtio-blk-pci,drive=d0
fi
if [ -n "$tpm" ]; then
  mkdir "$work/tpm"
  swtpm socket --tpm2 --tpmstate "dir=$work/tpm" --ctrl "type=unixio,path=$work/tpm/socket" --daemon
  set -- "$@" -chardev "socket,id=chrtpm,path=$work/tpm/socket" -tpmdev emulator,id=tpm0,chardev=chrtpm -device tpm-crb,tpmdev=tpm0
fi
timeout 180 qemu-system-x86_64 -machine q35 -accel tcg,thread=multi -smp 1 -m 512M -cpu "$model" \
  -nodefaults -no-user-config -display none -serial file:"$work/console" -serial file:"$work/tar" -no-reboot \
  -kernel "$kernel_dir"/boot/vmlinuz-* -initrd "$work/initrd" \
  -append 'console=ttyS0 quiet loglevel=4 tsc=reliable no_timer_check random.trust_cpu=on panic=-1' "$@" 2> "$work/qemu" || true
if ! tail -1 "$work/tar" | grep -q END; then
  cat "$work/qemu" "$work/console" >&2
  exit 1
fi
mkdir -p "$output"
sed '/^END/,$d' "$work/tar" | base64 -di | tar -C "$output" -xf -
