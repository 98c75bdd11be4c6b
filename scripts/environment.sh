# What scripts/test and scripts/quickstart share: Debian packages and the virtual environment. Sourced, never run.

say() { printf '\033[1m==> %s\033[0m\n' "$*" >&2; }
stop() { printf '%s: %s\n' "${0##*/}" "$*" >&2; exit 1; }

as_root() {
  if [ "$(id -u)" -eq 0 ]; then "$@"
  elif command -v sudo >/dev/null; then sudo -- "$@"
  else stop "this needs root for: $* - run it as root, or install sudo"
  fi
}

# install_packages NAME...: installs what is missing; quick when nothing is. Services that come with packages are not
# started: nothing here uses them.
install_packages() {
  local missing=() package
  for package in "$@"; do
    [ "$(dpkg-query --show --showformat='${db:Status-Status}' "$package" 2>/dev/null)" = installed ] || missing+=("$package")
  done
  [ ${#missing[@]} -eq 0 ] && return
  say "installing Debian packages: ${missing[*]}"
  [ -n "$(find /var/lib/apt/lists -maxdepth 1 -name '*_Packages*' -mmin -1440 -print -quit 2>/dev/null)" ] ||
    as_root apt-get update --quiet --quiet >/dev/null
  local policy=/usr/sbin/policy-rc.d
  if [ ! -e "$policy" ]; then
    printf '#!/bin/sh\nexit 101\n' | as_root tee "$policy" >/dev/null
    as_root chmod 755 "$policy"
    trap 'as_root rm -f /usr/sbin/policy-rc.d' EXIT
  fi
  as_root env DEBIAN_FRONTEND=noninteractive apt-get install --quiet --quiet --yes --no-install-recommends "${missing[@]}" >/dev/null
  if [ -n "$(trap -p EXIT)" ]; then
    as_root rm -f "$policy"
    trap - EXIT
  fi
}

# make_environment: .venv with everything of requirements.lock, and hsmd itself as an editable install.
make_environment() {
  local python=/usr/bin/python3 wanted
  "$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))' || stop "Python 3.11 or newer is needed: this is for Debian 12 and later"
  wanted=$("$python" --version; sha256sum requirements.lock)
  if [ "$(cat .venv/made-from 2>/dev/null)" != "$wanted" ]; then
    say "making .venv from requirements.lock"
    rm -rf .venv
    "$python" -m venv .venv
    .venv/bin/pip install --quiet --disable-pip-version-check --require-hashes --only-binary :all: --requirement requirements.lock
    printf '%s\n' "$wanted" >.venv/made-from
  fi
  # The second time this takes two seconds: the compiler runs only for what has changed.
  say "installing hsmd into .venv"
  .venv/bin/pip install --quiet --disable-pip-version-check --no-build-isolation --no-deps --editable .
}
