# Sourced by the other scripts: the root of the repository, and where programs are.
cd "$(dirname "${BASH_SOURCE[0]}")/.."
# cargo of rustup; and nft, ip and others, where an ordinary user does not look.
PATH=$PATH:${CARGO_HOME:-${HOME:-}/.cargo}/bin:/usr/local/sbin:/usr/sbin:/sbin
export PATH
