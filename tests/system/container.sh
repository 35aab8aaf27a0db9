#!/usr/bin/env bash
# A Debian 12 with a systemd of its own (PID 1), to try units in, as root: container.sh ROOT VERB
#   make              the tree in ROOT, by debootstrap: some minutes, 350 MB
#   boot [OPTION...]  starts it, with these options of systemd-nspawn, and waits until systemd is up: some seconds
#   run COMMAND...    runs a command in it, as root
#   stop              powers it off
# ROOT.pid and ROOT.log stand beside it. It shares the machine's network, and trusts the authorities that it trusts.
# Needs Debian's packages debootstrap and systemd-container.
set -euo pipefail
root=$(realpath -m "$1") verb=$2
shift 2
authorities=/etc/ssl/certs/ca-certificates.crt

# systemd-nspawn is the child of what was started, or that itself; the container's PID 1 is its only child.
leader() { pgrep -P "$(pgrep -P "$(cat "$root.pid")" -x systemd-nspawn || cat "$root.pid")" -x systemd | head -1; }

case $verb in
make)
  packages=systemd,systemd-sysv,dbus,python3,python3-venv,ca-certificates,procps
  debootstrap --variant=minbase --include=$packages bookworm "$root" >"$root.log" 2>&1
  cp "$authorities" "$root$authorities"
  ;;
boot)
  # Of its own control groups it sees version 2 alone, as Debian 12 has it.
  SYSTEMD_NSPAWN_UNIFIED_HIERARCHY=1 systemd-nspawn -D "$root" --register=no --keep-unit --console=pipe \
    --resolv-conf=copy-host "$@" -b </dev/null >"$root.log" 2>&1 &
  echo $! >"$root.pid"
  for _ in $(seq 240); do
    sleep 0.25
    state=$("$0" "$root" run systemctl is-system-running 2>/dev/null || true)
    case $state in running | degraded) exit 0 ;; esac
  done
  echo "not up after a minute (${state:-no answer}): see $root.log" >&2
  exit 1
  ;;
run)
  exec nsenter -t "$(leader)" -m -u -i -p -C -r -w env -i PATH=/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin \
    HOME=/root LANG=C.UTF-8 PIP_CERT=$authorities SSL_CERT_FILE=$authorities "$@"
  ;;
stop)
  "$0" "$root" run systemctl poweroff >/dev/null 2>&1 || true
  for _ in $(seq 120); do
    kill -0 "$(cat "$root.pid")" 2>/dev/null || exit 0
    sleep 0.25
  done
  kill "$(cat "$root.pid")"
  ;;
*)
  echo "$verb: make, boot, run or stop" >&2
  exit 2
  ;;
esac
