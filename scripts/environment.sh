# Sourced by the other scripts: the root of the repository, and where programs are.
cd "$(dirname "${BASH_SOURCE[0]}")/.."
# cargo of rustup; and nft, ip and others, where an ordinary user does not look.
# Only what is missing: some crates are built anew when PATH is another one.
for directory in "${CARGO_HOME:-${HOME:-}/.cargo}/bin" /usr/local/sbin /usr/sbin /sbin; do
  if [[ :$PATH: != *:$directory:* ]]; then PATH=$PATH:$directory; fi
done
export PATH
