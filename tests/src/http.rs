//! HTTP to a service inside the world, by `lab get` and `lab post` in its namespace.

use std::time::Duration;

use crate::addresses::Ns;
use crate::world::World;

/// How long a request may take; a test may ask for something slow on purpose.
const LIMIT: Duration = Duration::from_secs(30);

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Response {
    pub status: u16,
    pub body: String,
}

impl World {
    /// `GET`; an error is what kept the connection from being made or finished.
    pub fn http_get(&self, url: &str) -> Result<Response, String> {
        self.http(&["get", url], "")
    }

    /// The same with a header, `Name: value`.
    pub fn http_get_with(&self, url: &str, header: &str) -> Result<Response, String> {
        self.http(&["get", url, "--header", header], "")
    }

    /// `POST` of a JSON body, with a bearer token where one is given.
    pub fn http_post(
        &self,
        url: &str,
        body: &str,
        token: Option<&str>,
    ) -> Result<Response, String> {
        // By file: an argument list is public.
        let file = token.map(|token| self.write_file("http-token", token, 0o600));
        match &file {
            Some(file) => self.http(&["post", url, "--token-file", &file.to_string_lossy()], body),
            None => self.http(&["post", url], body),
        }
    }

    fn http(&self, arguments: &[&str], input: &str) -> Result<Response, String> {
        let lab = Self::program("lab");
        let lab = lab.to_string_lossy();
        let argv: Vec<_> = std::iter::once(lab.as_ref()).chain(arguments.iter().copied()).collect();
        let output = self.run_within(Ns::Egress, &argv, input, LIMIT);
        let stdout = String::from_utf8_lossy(&output.stdout);
        // The first line is the status, the rest is the body.
        stdout
            .split_once('\n')
            .filter(|_| output.status.success())
            .and_then(|(status, body)| {
                Some(Response { status: status.parse().ok()?, body: body.to_owned() })
            })
            .ok_or_else(|| String::from_utf8_lossy(&output.stderr).trim().to_owned())
    }
}
