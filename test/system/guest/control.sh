#!/bin/busybox ash
# Runs what the test sends over the virtio port "control", each command beside the others.
# The shell is busybox's, whose own base64, rm and flock need no program started: that is what takes time here.
# Asked: ID BASE64-OF-SCRIPT. Answered: ID STATUS .BASE64-OF-STDOUT .BASE64-OF-STDERR. First line: ready.
files=/run/control
mkdir -p "$files"
while [ -z "$device" ]; do
  for port in /sys/class/virtio-ports/*; do
    [ -r "$port/name" ] && read -r name < "$port/name" && [ "$name" = control ] && device=/dev/${port##*/}
  done
  [ -n "$device" ] || sleep 0.1
done
exec 3<> "$device"
echo ready >&3
while read -r id script <&3; do
  {
    printf %s "$script" | base64 -d > "$files/$id.sh"
    dash "$files/$id.sh" > "$files/$id.out" 2> "$files/$id.err" < /dev/null 3>&-
    status=$?
    answer="$id $status .$(base64 -w0 < "$files/$id.out") .$(base64 -w0 < "$files/$id.err")"
    rm -f "$files/$id.sh" "$files/$id.out" "$files/$id.err"
    # One answer at a time: the port does not keep apart what two write.
    (flock 9 && printf '%s\n' "$answer" >&3) 9> "$files/lock"
  } &
done
