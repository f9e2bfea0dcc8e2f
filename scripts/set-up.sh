# Sourced by scripts/test and scripts/demo: brings a bare Debian or Ubuntu machine to a built checkout. Every step looks
# first and does nothing if nothing is missing, so a second run takes a second.
#
#   set_up PACKAGE:FILE...   what to build with, plus the PACKAGEs whose FILE is missing; Node.js; npm ci; the build
#
# Kept outside the checkout, below $cache: Node.js where the machine has no good one, and the last build's output.
# Deleting it is always safe.

checkout=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
cache=${XDG_CACHE_HOME:-${HOME:-/root}/.cache}/overlaybd-ts

# What `npm ci` and the build need, each with a file that tells whether it is there.
build_packages=(
  g++:/usr/bin/g++
  make:/usr/bin/make
  cmake:/usr/bin/cmake
  python3:/usr/bin/python3
  pkg-config:/usr/bin/pkg-config
  libnl-genl-3-dev:/usr/include/libnl3/netlink/genl/genl.h
  libext2fs-dev:/usr/include/ext2fs/ext2fs.h
  liblz4-dev:/usr/include/lz4.h
  libzstd-dev:/usr/include/zstd.h
  zlib1g-dev:/usr/include/zlib.h
  ca-certificates:/etc/ssl/certs/ca-certificates.crt
)

say() {
  printf '==> %s\n' "$*"
}

fail() {
  printf '%s: %s\n' "$(basename "$0")" "$*" >&2
  exit 1
}

set_up() { # PACKAGE:FILE...
  mkdir -p "$cache"
  # Two runs at once must not both install or build.
  exec 7>"$cache/set-up.lock"
  flock 7
  install_packages "${build_packages[@]}" "$@"
  find_node
  install_modules
  build "$EPOCHSECONDS"
  exec 7>&-
}

# Nothing to do if no source is newer than the beginning of the last build.
build() { # NOW
  local stamp=$checkout/build/.complete
  if [ -e "$stamp" ] && [ -d "$checkout/dist" ]; then
    local newer
    newer=$(cd "$checkout" && find src native test scripts bin node_modules/.package-lock.json package.json tsconfig.json \
      CMakeLists.txt -newer build/.complete -print -quit)
    [ -n "$newer" ] || return 0
  fi
  say 'building'
  rm -f "$stamp"
  (cd "$checkout" && npm run --silent build) >"$cache/build.log" 2>&1 || {
    cat "$cache/build.log" >&2
    fail 'the build failed; its output is above'
  }
  # As of the beginning: a source that changed meanwhile is built the next time.
  touch --date="@$1" "$stamp"
}

install_packages() { # PACKAGE:FILE...
  local pair missing=()
  for pair in "$@"; do
    [ -e "${pair#*:}" ] || missing+=("${pair%%:*}")
  done
  [ ${#missing[@]} -gt 0 ] || return 0
  [ "$(id -u)" = 0 ] || fail "these packages are missing, and only root can install them: apt-get install ${missing[*]}"
  [ -x /usr/bin/apt-get ] || fail "no apt-get here; install these by hand: ${missing[*]}"
  say "installing ${missing[*]}"
  export DEBIAN_FRONTEND=noninteractive
  local apt_install=(apt-get install -y -qq --no-install-recommends -o Dpkg::Use-Pty=0 "${missing[@]}")
  # A bare machine has no package lists, an old one has lists of versions that are gone: both are cured by an update.
  "${apt_install[@]}" >/dev/null 2>&1 || {
    apt-get update -qq
    "${apt_install[@]}" >/dev/null
  }
}

# Node.js 20.19 or later with the headers that addons are compiled against: the machine's own, else the one that npm's
# registry carries. The distribution's is only good to fetch that: often too old, its headers are a package apart, and its
# npm links every addon with the distribution's own libnode.
find_node() {
  [ ! -x "$cache/node/bin/node" ] || PATH=$cache/node/bin:$PATH
  if ! node_is_good; then
    fetch_node
    PATH=$cache/node/bin:$PATH
    hash -r
    node_is_good || fail 'the fetched Node.js does not run here'
  fi
  export npm_config_nodedir
  npm_config_nodedir=$(node_prefix)
}

node_is_good() {
  command -v npm >/dev/null &&
    node -e 'const [a, b] = process.versions.node.split("."); process.exit(a > 20 || (a == 20 && b >= 19) ? 0 : 1)' 2>/dev/null &&
    [ -f "$(node_prefix)/include/node/node_api.h" ]
}

node_prefix() {
  dirname "$(dirname "$(readlink -f "$(command -v node)")")"
}

fetch_node() {
  local machine found
  found=$(node --version 2>/dev/null || echo none)
  case $(uname -m) in
    x86_64) machine=x64 ;;
    aarch64) machine=arm64 ;;
    *) fail "Node.js 20.19 or later with its headers is needed; found: $found" ;;
  esac
  say "fetching Node.js 22 (found: $found)"
  command -v npm >/dev/null || install_packages npm:/usr/bin/npm
  rm -rf "$cache/node" "$cache/node.new"
  npm install --loglevel error --no-save --prefix "$cache/node.new" "node-linux-$machine@22" npm@11 >/dev/null ||
    fail 'npm cannot fetch Node.js from its registry; install Node.js 20.19 or later by hand, or mend what npm says above'
  mv "$cache/node.new/node_modules/npm" "$cache/node.new/node_modules/node-linux-$machine/npm"
  ln -s ../npm/bin/npm-cli.js "$cache/node.new/node_modules/node-linux-$machine/bin/npm"
  ln -s ../npm/bin/npx-cli.js "$cache/node.new/node_modules/node-linux-$machine/bin/npx"
  mv "$cache/node.new/node_modules/node-linux-$machine" "$cache/node"
  rm -rf "$cache/node.new"
}

# node_modules is as package-lock.json says, if npm finished it after that file was written.
install_modules() {
  local modules=$checkout/node_modules
  [ ! -L "$modules" ] || return 0 # somebody shares one between checkouts: theirs to keep up to date
  [ ! "$modules/.package-lock.json" -nt "$checkout/package-lock.json" ] || return 0
  say 'npm ci'
  (cd "$checkout" && npm ci --no-fund --no-audit)
}
