#!/bin/bash
# Runs a command on a "host" n0 that shares a network with the hosts n1 and n2: each a network, process, mount and name
# namespace of its own, with its own folder for temporary files (/run) and /dev/shm, its own processes, and host.py as its remote shell. They share the
# files of this machine, as hosts of a cluster share a file system. Their network is unplugged by `ip link set nN down` on
# n0. Where namespaces are not allowed it says so and exits with 77.
set -u
here=$(cd "$(dirname "$0")" && pwd)
kinds=(--net --uts --mount --pid --ipc)
if ! command -v ip >/dev/null || ! reason=$(unshare "${kinds[@]}" --fork --mount-proc ip link add br0 type bridge 2>&1); then
  echo "skipped: no hosts can be made of namespaces here: ${reason:-no program ip}"
  exit 77
fi
folder=$(mktemp -d)
pids=()
cleanup() {
  kill -9 "${pids[@]}" 2>/dev/null
  rm -rf "$folder"
}
trap cleanup EXIT
for i in 0 1 2; do echo "10.77.0.$((i + 1)) n$i"; done >"$folder/hosts"
echo "127.0.0.1 localhost" >>"$folder/hosts"

# The first process of a host waits for its network, then serves its shell (n0 has none).
start_host() {
  # shellcheck disable=SC2016 # that is its own shell's
  unshare "${kinds[@]}" --fork --kill-child --mount-proc bash -c '
    hostname "$1"
    mount --bind "$2/hosts" /etc/hosts && mount -t tmpfs emoe-test /run && mount -t tmpfs emoe-test /dev/shm || exit 1
    ip link set lo up
    echo ready >"$2/ready-$1"
    if [ "$1" = n0 ]; then exec sleep infinity; fi
    until ip addr show dev eth0 2>/dev/null | grep -q "inet "; do sleep 0.05; done
    exec python3 "$3/host.py" serve "$(getent hosts "$1" | cut -d" " -f1)"' \
    host "$1" "$folder" "$here" &
  pids+=($!)
  disown
}
for i in 0 1 2; do start_host "n$i"; done
first=() # the first process of each host, as seen here
for i in 0 1 2; do
  until [ -s "$folder/ready-n$i" ]; do
    kill -0 "${pids[$i]}" 2>/dev/null || { echo "skipped: host n$i did not start"; exit 77; }
    sleep 0.02
  done
  first+=("$(pgrep -P "${pids[$i]}")")
done
on() { nsenter -t "${first[$1]}" -n "${@:2}"; }
on 0 ip link add br0 type bridge
on 0 ip addr add 10.77.0.1/24 dev br0
on 0 ip link set br0 up
for i in 1 2; do
  on 0 ip link add "n$i" type veth peer name eth0 netns "${first[$i]}"
  on 0 ip link set "n$i" master br0 up
  on "$i" ip addr add "10.77.0.$((i + 1))/24" dev eth0
  on "$i" ip link set eth0 up
done
for i in 1 2; do
  until on 0 python3 "$here/host.py" ssh "10.77.0.$((i + 1))" true 2>/dev/null; do sleep 0.05; done
done
nsenter -t "${first[0]}" --net --uts --mount --pid --ipc --wd="$PWD" env TMPDIR=/run "$@"
