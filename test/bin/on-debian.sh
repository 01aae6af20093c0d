#!/bin/sh
# mmdebstrap's last hook, in a Debian that was just made ($1): installs the agent's package ($DEB) by $INSTALL and apt,
# with the configuration $CONFIG, runs what is in it, removes and purges it, does the like with $RPM as far as a Debian goes, and writes down what came of each step in
# $OUTCOME.
set -eu
root=$1
here() { env -i PATH=/usr/sbin:/usr/bin:/sbin:/bin DEBIAN_FRONTEND=noninteractive chroot "$root" "$@"; }
coded() {
  code=0
  here "$@" 2>&1 || code=$?
  echo "exit code $code"
}
ours() { here find / -xdev \( -path /proc -o -path /sys -o -path /tmp \) -prune -o -name '*casemate*' ! -path '*/*casemate*/*' ! -path '/var/lib/dpkg/*' -print | sort; }
units='casemate-agent.service casemate-disks.service casemate-swap.service'

# What the agent recommends makes this no better a test, and takes minutes.
echo 'APT::Install-Recommends "false";' > "$root/etc/apt/apt.conf.d/60no-recommends"
# By what user data and Systems Manager run; its bucket is a folder.
mkdir "$root/tmp/bucket"
cp "$DEB" "$root/tmp/bucket"
cp "$INSTALL" "$root/tmp/install-agent.sh"
cat > "$root/usr/local/bin/aws" << 'END'
#!/bin/sh
echo "$*" >> /tmp/fetched
[ "$1 $2 $3" = 's3 cp --only-show-errors' ] && cp "/tmp/${4#s3://}" "$5"
END
chmod 755 "$root/usr/local/bin/aws"
installing() {
  CASEMATE_FROM=s3://bucket CASEMATE_SUMS=$1 CASEMATE_CONFIG=$CONFIG \
    chroot "$root" sh /tmp/install-agent.sh > "$OUTCOME/log" 2>&1
}
if installing "$(sha256sum < /dev/null | cut -c 1-64)  $(basename "$DEB")"; then echo installed; fi > "$OUTCOME/wrong-sum"
here sh -c 'command -v casemate-agent' > "$OUTCOME/refused" || :
sums=$(cd "$(dirname "$DEB")" && cat SHA256SUMS)
installing "$sums"
installing "$sums"
wc -l < "$root/tmp/fetched" > "$OUTCOME/fetched"
rm "$root/usr/local/bin/aws"

here casemate-agent --version > "$OUTCOME/version"
here dpkg --verify casemate-agent > "$OUTCOME/verify"
here systemctl is-enabled $units > "$OUTCOME/enabled"
here casemate-agent probe > "$OUTCOME/probe"
# A port that nobody listens on is a pipeline that is away.
coded casemate-agent disk status > "$OUTCOME/status"
mv "$root/etc/casemate/agent.json" "$root/tmp"
coded casemate-agent disk status > "$OUTCOME/unconfigured"
mv "$root/tmp/agent.json" "$root/etc/casemate"
mkdir -p "$root/var/lib/casemate/mounts" "$root/tmp/generated"
touch "$root/var/lib/casemate/mounts/srv-data.mount"
here /usr/lib/systemd/system-generators/casemate-mounts /tmp/generated
ls "$root/tmp/generated" > "$OUTCOME/generated"

here apt-get remove --yes --quiet=2 casemate-agent > /dev/null
ours > "$OUTCOME/removed"
here apt-get purge --yes --quiet=2 casemate-agent > /dev/null
ours > "$OUTCOME/purged"
find "$root/etc/systemd" -name '*casemate*' > "$OUTCOME/units-left"

# No Red Hat, but another rpm database: its scripts and files are what they would be there.
red() { rpm --root "$root" --force-debian "$@"; }
red --install --nodeps "$RPM"
here casemate-agent --version > "$OUTCOME/rpm-version"
red --verify --nodeps casemate-agent > "$OUTCOME/rpm-verify"
here systemctl is-enabled $units > "$OUTCOME/rpm-enabled"
red --erase --nodeps casemate-agent > "$OUTCOME/rpm-erased"
ours > "$OUTCOME/rpm-left"
