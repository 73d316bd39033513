//! Who may call the webhook: a bearer token, a password or a client certificate; and nobody else,
//! wherever others than this host can connect.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};

use web::config::WebConfig;
use web::{Gate, Live, Token};

use crate::webhook::ROUTE;

/// The gate in front of the webhook. The error says the mend.
pub fn gate(
    config_file: Option<PathBuf>,
    token_file: Option<&Path>,
    beyond_loopback: bool,
) -> Result<Gate, String> {
    let token = token_file.map(read_token).transpose()?;
    let open = beyond_loopback && token.is_none();
    let demand = move |config: &WebConfig| {
        if open && !config.demands_credentials() {
            return Err("--web.listen-address: refused beyond loopback without credentials; give \
                 --web.bearer-token-file, or --web.config.file with basic_auth_users or \
                 with client_auth_type: RequireAndVerifyClientCert"
                .to_owned());
        }
        Ok(())
    };
    let live = Live::load(config_file, Box::new(demand))?;
    Gate::new(live, token.map(|secret| Token { route: ROUTE, secret }))
}

/// Of a token's file, in bytes.
const LONGEST: u64 = 64 * 1024;

fn read_token(file: &Path) -> Result<Vec<u8>, String> {
    let unreadable = |why: String| format!("token file {} cannot be read: {why}", file.display());
    let text = egress::file::read(file, LONGEST).map_err(|error| unreadable(error.to_string()))?;
    let text = String::from_utf8(text).map_err(|_| unreadable("it is no text".to_owned()))?;
    let mode = fs::metadata(file).map_or(0, |metadata| metadata.permissions().mode());
    if mode & 0o007 != 0 {
        return Err(format!("token file {} can be read by others: chmod o-rwx", file.display()));
    }
    let token = text.trim().as_bytes().to_vec();
    if token.is_empty() {
        return Err(format!("token file {} is empty: put one line of random text", file.display()));
    }
    Ok(token)
}
