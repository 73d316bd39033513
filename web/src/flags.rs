//! Flags that operators know from other exporters.

use std::net::SocketAddr;
use std::path::PathBuf;

use clap::{Args, ValueEnum};
use tracing_subscriber::EnvFilter;

#[derive(Debug, Clone, Args)]
pub struct WebFlags {
    /// Address to listen on, such as 127.0.0.1:9061, or :9061 for all addresses. Can be
    /// given several times. By default loopback, port 9061 (exporter) or 9062 (actuator).
    #[arg(long = "web.listen-address", value_name = "ADDRESS", value_parser = address)]
    pub listen: Vec<SocketAddr>,

    /// Use the sockets that systemd hands over instead of listening.
    #[arg(long = "web.systemd-socket", conflicts_with = "listen")]
    pub systemd_socket: bool,

    /// File that can enable TLS, basic authentication and client certificates, in the format of
    /// Prometheus' exporter-toolkit.
    #[arg(long = "web.config.file", value_name = "FILE")]
    pub config_file: Option<PathBuf>,

    /// Path under which to expose metrics.
    #[arg(
        long = "web.telemetry-path",
        value_name = "PATH",
        default_value = "/metrics",
        value_parser = telemetry_path
    )]
    pub telemetry_path: String,
}

fn address(text: &str) -> Result<SocketAddr, String> {
    // As Go has it: a port alone means all addresses.
    let whole = if text.starts_with(':') { format!("[::]{text}") } else { text.to_owned() };
    whole.parse().map_err(|_| "want an address and a port, for example 127.0.0.1:9061".to_owned())
}

fn telemetry_path(text: &str) -> Result<String, String> {
    let is_path = text.starts_with('/') && text.len() > 1 && text.bytes().all(|byte| byte > b' ');
    let taken = text.starts_with("/-/") || text.starts_with("/api/");
    if is_path && !taken && !text.contains(['?', '#', '<', '"', '&']) {
        return Ok(text.to_owned());
    }
    Err("want a path of its own, for example /metrics".to_owned())
}

#[derive(Debug, Clone, Args)]
pub struct LogFlags {
    /// Only log messages of this severity or above: error, warn, info, debug, trace.
    #[arg(
        long = "log.level",
        value_name = "LEVEL",
        default_value = "info",
        value_parser = ["error", "warn", "info", "debug", "trace"],
        global = true
    )]
    pub level: String,

    /// Output format of log messages.
    #[arg(long = "log.format", value_name = "FORMAT", default_value = "text", global = true)]
    pub format: LogFormat,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum LogFormat {
    Text,
    Json,
}

impl LogFlags {
    /// Logs go to standard error: standard output belongs to what was asked for.
    pub fn init(&self) {
        // Only our own crates: a library's log at trace level may hold more than it should (S10).
        let filter = ["egress", "ids", "web", "exporter", "actuator"]
            .map(|own| format!("{own}={}", self.level))
            .join(",");
        let filter = EnvFilter::try_new(filter).unwrap_or_else(|_| EnvFilter::new("info"));
        let log = tracing_subscriber::fmt()
            .with_env_filter(filter)
            .with_writer(std::io::stderr)
            .with_ansi(false);
        match self.format {
            LogFormat::Text => log.init(),
            LogFormat::Json => log.json().init(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_taken_as_other_exporters_take_them() {
        for (text, parsed) in
            [("127.0.0.1:9061", "127.0.0.1:9061"), (":9061", "[::]:9061"), ("[::1]:1", "[::1]:1")]
        {
            assert_eq!(address(text).map(|address| address.to_string()).as_deref(), Ok(parsed));
        }
        for text in ["", "9061", "localhost:9061", "127.0.0.1", ":", ":x", ":70000"] {
            assert!(address(text).is_err(), "{text}");
        }
    }

    #[test]
    fn the_metrics_path_takes_no_other_routes_place() {
        assert!(telemetry_path("/metrics").is_ok() && telemetry_path("/a/b").is_ok());
        for text in ["", "/", "metrics", "/-/healthy", "/api/v1/alerts", "/a b", "/<b>", "/a?b"] {
            assert!(telemetry_path(text).is_err(), "{text}");
        }
    }
}
