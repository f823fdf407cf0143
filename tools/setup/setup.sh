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
say() { printf '\033[1m[setup]\033[0m %s\n' "$*"; }
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
  "${sudo[@]}" apt-get update -qq
  # shellcheck disable=SC2086
  "${sudo[@]}" env DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends \
    $missing >build/apt.log 2>&1 || { tail -n 20 build/apt.log >&2; die "apt-get failed; see build/apt.log"; }
}

# install_wheels WHAT REQUIREMENTS: pinned wheels without their dependencies, which would bring 3 GB of CUDA.
install_wheels() {
  local stamp
  stamp=$venv/.installed-$(sha256sum "$2" | cut -c1-16)
  if [ -e "$stamp" ]; then
    say "$1: there"
    return
  fi
  if ! "$venv/bin/python" -c '' 2>/dev/null; then
    say "Python environment: making $venv"
    rm -rf "$venv"
    /usr/bin/python3 -m venv "$venv"
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
