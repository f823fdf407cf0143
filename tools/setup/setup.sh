#!/usr/bin/env bash
# Sets up what a build or a test run needs. Each step says what it does, is skipped when done, and may be
# repeated or interrupted at any time.
#
#   tools/setup/setup.sh build    Debian packages and LibTorch (a PyPI wheel) for building and running
#   tools/setup/setup.sh test     the above, and what make test and make lint use besides
set -euo pipefail
cd "$(dirname "$0")/../.."

profile=${1:-build}
case $profile in build | test) ;; *)
  sed -n '2,6s/^# \{0,1\}//p' "$0" >&2
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

install_packages() {
  local missing sudo=()
  missing=$(missing_packages "$@")
  if [ -z "$missing" ]; then
    say "Debian packages: all there"
    return
  fi
  command -v apt-get >/dev/null || die "this set-up needs Debian 12's apt-get; install by hand: $missing"
  if [ "$(id -u)" != 0 ]; then
    command -v sudo >/dev/null || die "run as root or install sudo; missing packages: $missing"
    sudo=(sudo)
  fi
  # shellcheck disable=SC2086  # one word each is wanted
  say "Debian packages: installing" $missing
  # shellcheck disable=SC2086
  run_apt $missing >build/apt.log 2>&1 || { tail -n 20 build/apt.log >&2; die "apt-get failed; see build/apt.log"; }
}

run_apt() {
  local apt=(env DEBIAN_FRONTEND=noninteractive apt-get -q -o DPkg::Lock::Timeout=300)
  # An interrupted run may have left packages half configured, and then apt-get refuses all work. Another package manager
  # at work makes this fail; apt-get waits for it.
  "${sudo[@]}" env DEBIAN_FRONTEND=noninteractive dpkg --configure -a || true
  "${sudo[@]}" "${apt[@]}" update && "${sudo[@]}" "${apt[@]}" install -y --no-install-recommends "$@"
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

mkdir -p build
if [ "$profile" = test ]; then
  install_packages tools/setup/packages.txt tools/setup/packages-test.txt
else
  install_packages tools/setup/packages.txt
fi
install_wheels LibTorch tools/python/requirements-build.txt
if [ "$profile" = test ]; then
  install_wheels "Python test environment (transformers, PEFT, grpcio)" tools/python/requirements-test.txt
fi
