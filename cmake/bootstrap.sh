# shellcheck shell=bash
# Sourced by tests/run, examples/run and .ci/run: what a fresh Debian 12 or Ubuntu 24.04 lacks, and
# how this repository is configured. Nothing is downloaded when all is there.
#
#   need <package> <command>...   notes the package unless the command succeeds
#   install_missing               installs what was noted: as root; others get the exact line, exit 2
#   cuda_flags                    prints the flags for this machine's GPU, or those that leave CUDA out
#   configure <folder> <flag>...  configures build/<folder>
#   build <folder> <flag>...      builds it

root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
jobs=${CMAKE_BUILD_PARALLEL_LEVEL:-$(nproc)}
missing=()

have() { command -v "$1" >/dev/null 2>&1; }

need() {
  local package=$1
  shift
  "$@" >/dev/null 2>&1 || missing+=("$package")
}

# A generator: Ninja or make, whichever is there.
have_generator() { have ninja || have make; }

need_build_tools() {
  need cmake have cmake
  need g++ have "${CXX:-g++}"
  need ninja-build have_generator
}

install_missing() {
  [ ${#missing[@]} -eq 0 ] && return
  local line="apt-get install -y --no-install-recommends ${missing[*]}"
  if ! have apt-get; then
    echo "Missing, and this machine has no apt-get: ${missing[*]}" >&2
    exit 2
  fi
  if [ "$(id -u)" -ne 0 ]; then
    printf 'Missing: %s. Install with\n  sudo apt-get update && sudo %s\n' \
      "${missing[*]}" "$line" >&2
    exit 2
  fi
  echo "Installing: ${missing[*]}"
  export DEBIAN_FRONTEND=noninteractive
  local log
  log=$(mktemp)
  if ! { apt-get update && $line; } >"$log" 2>&1; then
    cat "$log" >&2
    echo "Could not install: ${missing[*]}" >&2
    exit 2
  fi
  rm -f "$log"
  missing=()
}

# Without a GPU nothing that nvcc builds can run here, and building it takes minutes.
cuda_flags() {
  if [[ $(nvidia-smi -L 2>/dev/null) == "GPU 0:"* ]]; then
    echo -DDPGATHER_ENABLE_CUDA=ON -DCMAKE_CUDA_ARCHITECTURES=native
  else
    echo -DDPGATHER_ENABLE_CUDA=OFF
  fi
}

configure() {
  local folder=$root/build/$1
  shift
  # A tree that was copied or moved leaves a cache which CMake refuses to use.
  local cache=$folder/CMakeCache.txt
  if [ -f "$cache" ] && ! grep -qxF "CMAKE_HOME_DIRECTORY:INTERNAL=$root" "$cache"; then
    rm -rf "$folder"
  fi
  local generator=()
  if [ ! -f "$cache" ] && [ -z "${CMAKE_GENERATOR:-}" ]; then
    if have ninja; then generator=(-G Ninja); else generator=(-G "Unix Makefiles"); fi
  fi
  cmake -S "$root" -B "$folder" "${generator[@]}" "$@"
}

build() {
  local folder=$root/build/$1
  shift
  cmake --build "$folder" --parallel "$jobs" "$@"
}
