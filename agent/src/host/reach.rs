//! Whether somebody can still be reached: the question after a change of the network.

use std::{
    fmt,
    net::{SocketAddr, TcpStream},
    str::FromStr,
    time::Duration,
};

use anyhow::{Context, Result, ensure};
use ureq::Agent;

/// Who must answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Reach {
    /// A provisioner, at its health probe.
    Http(SocketAddr),
    /// Whoever accepts a connection.
    Tcp(SocketAddr),
}

impl FromStr for Reach {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let wrong = || {
            format!(
                "`{text}` cannot be reached: `http://10.0.0.1:8080` and `tcp://10.0.0.1:22` can"
            )
        };
        let (scheme, rest) = text.split_once("://").ok_or_else(wrong)?;
        let rest = rest.trim_end_matches('/');
        match scheme {
            "http" => {
                let with_port = || format!("{rest}:80").parse();
                Ok(Reach::Http(rest.parse().or_else(|_| with_port()).map_err(|_| wrong())?))
            }
            "tcp" => Ok(Reach::Tcp(rest.parse().map_err(|_| wrong())?)),
            _ => Err(wrong()),
        }
    }
}

impl fmt::Display for Reach {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Reach::Http(address) => write!(f, "http://{address}"),
            Reach::Tcp(address) => write!(f, "tcp://{address}"),
        }
    }
}

impl Reach {
    /// Asks once, and waits no longer than `patience`.
    pub(crate) fn try_once(&self, patience: Duration) -> Result<()> {
        match self {
            Reach::Tcp(address) => {
                let connected = TcpStream::connect_timeout(address, patience);
                connected.map(drop).with_context(|| format!("connecting to {address}"))
            }
            Reach::Http(address) => {
                let config = Agent::config_builder()
                    .http_status_as_error(false)
                    .proxy(None)
                    .timeout_global(Some(patience))
                    .max_redirects(0)
                    .build();
                let url = format!("http://{address}/healthz");
                let answer = Agent::new_with_config(config).get(&url).call();
                let status = answer.with_context(|| format!("asking {url}"))?.status();
                ensure!(status.is_success(), "{url} says {status}");
                Ok(())
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_must_answer_is_read_and_written() {
        for text in ["http://10.0.0.1:8080", "tcp://10.0.0.1:22", "tcp://[2001:db8::1]:22"] {
            assert_eq!(text.parse::<Reach>().unwrap().to_string(), text);
        }
        assert_eq!("http://10.0.0.1/".parse::<Reach>().unwrap().to_string(), "http://10.0.0.1:80");
        for text in ["", "10.0.0.1", "https://10.0.0.1", "tcp://10.0.0.1", "http://name:80"] {
            assert!(text.parse::<Reach>().is_err(), "{text}");
        }
    }
}
