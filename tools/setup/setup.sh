#!/usr/bin/env bash
# Sets up what a build or a test run needs. Each step says what it does, is skipped when done, and may be
# repeated or interrupted at any time.
#
#   tools/setup/setup.sh build    Debian packages and LibTorch (a PyPI wheel) for building and running
#   tools/setup/setup.sh test     the above, and what make test and make lint use besides
#   tools/setup/setup.sh slurm    the above, and Slurm's daemons and commands, for make test-slurm
#   tools/setup/setup.sh cuda     what build does, and nvcc and the CUDA libraries of the wheel, for a build that uses GPUs
set -euo pipefail
cd "$(dirname "$0")/../.."

profile=${1:-build}
case $profile in build | test | slurm | cuda) ;; *)
  sed -n '2,8s/^# \{0,1\}//p' "$0" >&2
  exit 64
  ;;
esac

venv=build/python
bold='' plain=''
if [ -t 1 ]; then bold=$'\033[1m' plain=$'\033[0m'; fi
say() { printf '%s[setup]%s %s\n' "$bold" "$plain" "$*"; }
die() { printf '[setup] %s\n' "$*" >&2; exit 1; }

missing_packages() {
  local package
  sed 's/[[:space:]]*#.*//; /^$/d' "$@" | while read -r package; do
    dpkg-query -W -f='${Status}' "$package" 2>/dev/null | grep -q 'ok installed' || echo "$package"
  done
}

# prepare_apt: package lists of today, and no package left half configured by an interrupted run (apt-get then refuses all
# work). Another package manager at work makes dpkg fail; apt-get waits for it.
prepare_apt() {
  command -v apt-get >/dev/null || die "this set-up needs Debian 12's apt-get; install by hand:" "$@"
  if [ "$(id -u)" != 0 ]; then
    command -v sudo >/dev/null || die "run as root or install sudo; missing packages:" "$@"
    sudo=(sudo)
  fi
  apt=("${sudo[@]}" env DEBIAN_FRONTEND=noninteractive apt-get -q -o DPkg::Lock::Timeout=300)
  : >build/apt.log
  logged "${sudo[@]}" env DEBIAN_FRONTEND=noninteractive dpkg --configure -a || true
  logged "${apt[@]}" update || apt_failed
}

install_packages() {
  logged "${apt[@]}" install -y --no-install-recommends "$@" || apt_failed
}

logged() { "$@" >>build/apt.log 2>&1; }

apt_failed() {
  tail -n 20 build/apt.log >&2
  die "apt-get failed; see build/apt.log"
}

# install_wheels WHAT REQUIREMENTS: pinned wheels without their dependencies, which would bring 3 GB of CUDA.
install_wheels() {
  local stamp
  stamp=$venv/.installed-$(sha256sum "$2" | cut -c1-16)
  # Another Python or an interrupted run: the stamps of what was in it go with it.
  if ! "$venv/bin/python" -m pip --version >/dev/null 2>&1; then
    say "Python environment: making $venv"
    rm -rf "$venv"
    /usr/bin/python3 -m venv "$venv"
  fi
  if [ -e "$stamp" ]; then
    say "$1: there"
    return
  fi
  say "$1: installing from PyPI (about a minute; 1.3 GB on disk for LibTorch)"
  "$venv/bin/python" -m pip install --quiet --disable-pip-version-check --no-deps -r "$2"
  touch "$stamp"
}

install_all_wheels() {
  install_wheels LibTorch tools/python/requirements-build.txt
  # Torch's Python side maps the CUDA libraries even where there is no GPU.
  if [ "$profile" != build ]; then
    install_wheels "CUDA libraries of the wheel" tools/python/requirements-cuda.txt
  fi
  if [ "$profile" = cuda ]; then
    install_wheels "nvcc" tools/python/requirements-nvcc.txt
  fi
  if [ "$profile" = test ] || [ "$profile" = slurm ]; then
    install_wheels "Python test environment (transformers, PEFT, grpcio)" tools/python/requirements-test.txt
  fi
}

mkdir -p build
lists=(tools/setup/packages.txt)
if [ "$profile" = test ] || [ "$profile" = slurm ]; then lists+=(tools/setup/packages-test.txt); fi
if [ "$profile" = slurm ]; then lists+=(tools/setup/packages-slurm.txt); fi
mapfile -t missing < <(missing_packages "${lists[@]}")
if [ "${#missing[@]}" = 0 ]; then
  say "Debian packages: all there"
  install_all_wheels
  exit
fi

# What pip needs comes first; then the wheels are fetched while apt-get works.
say "Debian packages: installing ${missing[*]}"
sudo=() apt=()
prepare_apt "${missing[@]}"
install_packages ca-certificates python3 python3-venv
set -m # a process group of its own, which an early end of this script takes with it
install_all_wheels &
wheels=$!
set +m
trap 'kill -- "-$wheels" 2>/dev/null || true' EXIT
install_packages "${missing[@]}"
wait "$wheels"
trap - EXIT
