//! The door to the provisioner: HTTP, without TLS (manifests are signed, chunks are named by
//! their content, and the token buys one deployment), with a timeout on everything.

use std::{io::Read, net::SocketAddr, ops::Range, time::Duration};

use serde::{Serialize, de::DeserializeOwned};
use ureq::{
    Agent, Body,
    http::{Response, StatusCode, Uri},
    unversioned::resolver::DefaultResolver,
};

use crate::{connection::Prompt, patience::Patience, ranges::Ranges};

/// What the agent calls itself.
pub(crate) const USER_AGENT: &str = concat!("billet-agent/", env!("CARGO_PKG_VERSION"));

/// Silence for this long means that the connection is lost.
const SILENCE: Duration = Duration::from_secs(20);
/// The longest answer that is not a manifest or a pack.
const LONGEST_ANSWER: u64 = 4 << 20;

/// What came of a request.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ServerError {
    /// The server understood and said no; asking again brings the same.
    #[error("the server refused {path} with status {status}: {detail}")]
    Refused {
        /// What was asked.
        path: String,
        /// Its status code.
        status: u16,
        /// What it said.
        detail: String,
    },
    /// It did not answer, or could not: asking again may help.
    #[error("{path}: {reason}")]
    Unwell {
        /// What was asked.
        path: String,
        /// What happened.
        reason: String,
    },
    /// The URL cannot be used.
    #[error("server `{0}` is not usable: http:// with a numeric address is, http://10.0.0.1:8080")]
    Url(String),
}

impl ServerError {
    /// Whether asking again may help.
    pub(crate) fn may_pass(&self) -> bool {
        matches!(self, ServerError::Unwell { .. })
    }

    /// What a status that is no success means, and the body that came with it.
    pub(crate) fn of(path: &str, status: StatusCode, body: &[u8]) -> Self {
        let (path, detail) = (path.to_owned(), detail_of(body));
        let busy = matches!(status, StatusCode::REQUEST_TIMEOUT | StatusCode::TOO_MANY_REQUESTS);
        if status.is_server_error() || busy {
            return ServerError::Unwell { path, reason: format!("status {status}: {detail}") };
        }
        ServerError::Refused { path, status: status.as_u16(), detail }
    }
}

/// A provisioner.
#[derive(Debug, Clone)]
pub(crate) struct Server {
    base: String,
    address: SocketAddr,
    agent: Agent,
}

impl Server {
    /// The provisioner at `base`. Names are refused: a static program in a RAM system has
    /// nobody to ask for them, and the boot line carries an address anyway.
    pub(crate) fn at(base: &str) -> Result<Self, ServerError> {
        Server::patient(base, SILENCE)
    }

    /// The same, where an answer may take as long as `silence`.
    pub(crate) fn patient(base: &str, silence: Duration) -> Result<Self, ServerError> {
        let refused = || ServerError::Url(base.to_owned());
        let uri: Uri = base.parse().map_err(|_| refused())?;
        let authority = uri.authority().ok_or_else(refused)?.as_str();
        let with_port = format!("{authority}:80");
        let address = authority.parse().or_else(|_| with_port.parse()).map_err(|_| refused())?;
        if uri.scheme_str() != Some("http") {
            return Err(refused());
        }
        let config = Agent::config_builder()
            .http_status_as_error(false)
            .proxy(None)
            .timeout_connect(Some(Duration::from_secs(10)))
            .timeout_recv_response(Some(silence))
            .timeout_per_read(Some(silence))
            .timeout_per_write(Some(SILENCE))
            .max_redirects(0)
            .user_agent(USER_AGENT)
            .build();
        let agent = Agent::with_parts(config, Prompt, DefaultResolver::default());
        Ok(Server { base: base.trim_end_matches('/').to_owned(), address, agent })
    }

    /// Its files, over connections of their own.
    pub(crate) fn ranges(&self) -> Ranges {
        let path = self.base.splitn(4, '/').nth(3).map(|path| format!("/{path}"));
        Ranges::at(self.address, path.unwrap_or_default(), SILENCE)
    }

    /// Posts `message` and gives what the server answered.
    pub(crate) fn post(
        &self,
        path: &str,
        bearer: Option<&str>,
        message: &impl Serialize,
    ) -> Result<Answer, ServerError> {
        let mut request = self.agent.post(format!("{}{path}", self.base));
        if let Some(bearer) = bearer {
            request = request.header("authorization", format!("Bearer {bearer}"));
        }
        Answer::of(path, request.send_json(message))
    }

    /// Gets `path`, from byte `range.start` up to (not including) `range.end` where given.
    pub(crate) fn get(&self, path: &str, range: Option<Range<u64>>) -> Result<Answer, ServerError> {
        let mut request = self.agent.get(format!("{}{path}", self.base));
        if let Some(Range { start, end }) = range {
            request = request.header("range", format!("bytes={start}-{}", end.saturating_sub(1)));
        }
        Answer::of(path, request.call())
    }

    /// Gets `path` as the bearer of `token`.
    pub(crate) fn get_with(&self, path: &str, token: &str) -> Result<Answer, ServerError> {
        let request = self.agent.get(format!("{}{path}", self.base));
        let request = request.header("authorization", format!("Bearer {token}"));
        Answer::of(path, request.call())
    }

    /// Asks until there is an answer, a refusal, or an end to `patience`.
    pub(crate) fn insist<T>(
        patience: &mut Patience,
        mut ask: impl FnMut() -> Result<T, ServerError>,
    ) -> Result<T, ServerError> {
        loop {
            match ask() {
                Err(error) if error.may_pass() && patience.pause(&error.to_string()) => {}
                answer => return answer,
            }
        }
    }
}

/// An answer with a good status, its body not yet read.
#[derive(Debug)]
pub(crate) struct Answer {
    path: String,
    response: Response<Body>,
}

impl Answer {
    fn of(path: &str, response: Result<Response<Body>, ureq::Error>) -> Result<Self, ServerError> {
        let unwell = |reason: String| ServerError::Unwell { path: path.to_owned(), reason };
        let mut response = response.map_err(|error| unwell(error.to_string()))?;
        let status = response.status();
        if status.is_success() {
            return Ok(Answer { path: path.to_owned(), response });
        }
        let body = response.body_mut().with_config().limit(LONGEST_ANSWER);
        Err(ServerError::of(path, status, &body.read_to_vec().unwrap_or_default()))
    }

    /// Whether the server sent the range that was asked for, and not everything.
    pub(crate) fn is_partial(&self) -> bool {
        self.response.status() == StatusCode::PARTIAL_CONTENT
    }

    /// How long the body says it is.
    pub(crate) fn length(&self) -> Option<u64> {
        self.response.body().content_length()
    }

    /// The body as it comes, without a limit: the reader must have one.
    pub(crate) fn reader(self) -> Box<dyn Read + Send> {
        Box::new(self.response.into_body().into_reader())
    }

    /// The body as JSON.
    pub(crate) fn json<T: DeserializeOwned>(self) -> Result<T, ServerError> {
        let path = self.path.clone();
        let bytes = self.bytes(LONGEST_ANSWER)?;
        serde_json::from_slice(&bytes)
            .map_err(|error| ServerError::Unwell { path, reason: format!("answered {error}") })
    }

    /// The body as JSON, `None` when the server has nothing to say.
    pub(crate) fn json_or_nothing<T: DeserializeOwned>(self) -> Result<Option<T>, ServerError> {
        if self.response.status() == StatusCode::NO_CONTENT {
            return Ok(None);
        }
        self.json().map(Some)
    }

    /// The body's first `most` bytes, or all where they are fewer, when those were asked for; and how
    /// many there are in all.
    pub(crate) fn beginning(self, most: u64) -> Result<(Vec<u8>, u64), ServerError> {
        let unwell = |reason: String| ServerError::Unwell { path: self.path.clone(), reason };
        let said = self.response.headers().get("content-range");
        let said = said.and_then(|said| said.to_str().ok()?.rsplit_once('/')?.1.parse().ok());
        let whole = if self.is_partial() { said } else { self.length() };
        let mut bytes = Vec::new();
        // One more tells that there is more.
        let body = self.response.into_body().into_reader().take(most + 1).read_to_end(&mut bytes);
        body.map_err(|error| unwell(error.to_string()))?;
        let len = bytes.len() as u64;
        bytes.truncate(most as usize);
        match whole {
            Some(whole) if len.min(most) == whole.min(most) => Ok((bytes, whole)),
            None if len <= most => Ok((bytes, len)),
            Some(whole) => Err(unwell(format!("{len} bytes came of the first {most} of {whole}"))),
            None => Err(unwell("does not say how long it is".to_owned())),
        }
    }

    /// The whole body, when it has at most `limit` bytes.
    pub(crate) fn bytes(mut self, limit: u64) -> Result<Vec<u8>, ServerError> {
        let body = self.response.body_mut().with_config().limit(limit);
        let path = self.path;
        body.read_to_vec().map_err(|error| ServerError::Unwell { path, reason: error.to_string() })
    }
}

/// What a problem document (RFC 9457) says, or the beginning of whatever the body is.
fn detail_of(body: &[u8]) -> String {
    let problem: serde_json::Value = serde_json::from_slice(body).unwrap_or_default();
    let said = ["detail", "title"].iter().find_map(|key| problem.get(key)?.as_str());
    match said {
        Some(said) => said.to_owned(),
        None => String::from_utf8_lossy(body).trim().chars().take(200).collect(),
    }
}

#[cfg(test)]
mod tests {
    use std::{
        io::{Read, Write},
        net::TcpListener,
        thread,
    };

    use super::*;

    /// A server that gives each of `answers` to one connection.
    fn answering(answers: &'static [&'static str]) -> Server {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let base = format!("http://{}", listener.local_addr().unwrap());
        thread::spawn(move || {
            for answer in answers {
                let (mut stream, _) = listener.accept().unwrap();
                let mut request = [0; 4096];
                let _ = stream.read(&mut request).unwrap();
                stream.write_all(answer.as_bytes()).unwrap();
            }
        });
        Server::at(&base).unwrap()
    }

    #[test]
    fn a_name_is_refused_and_an_address_is_not() {
        for base in ["http://10.0.0.1:8080", "http://10.0.0.1", "http://[::1]:80/"] {
            assert!(Server::at(base).is_ok(), "{base}");
        }
        for base in ["http://server:8080", "https://10.0.0.1", "10.0.0.1", "", "http://"] {
            assert!(Server::at(base).is_err(), "{base}");
        }
    }

    #[test]
    fn a_refusal_carries_what_the_server_said() {
        let server = answering(&["HTTP/1.1 403 Forbidden\r\ncontent-length: 25\r\n\
              connection: close\r\n\r\n{\"detail\": \"token spent\"}"]);
        let error = server.get("/x", None).unwrap_err();
        assert!(!error.may_pass());
        assert_eq!(error.to_string(), "the server refused /x with status 403: token spent");
    }

    #[test]
    fn a_server_that_is_unwell_is_asked_again() {
        let server = answering(&[
            "HTTP/1.1 503 Later\r\ncontent-length: 0\r\nconnection: close\r\n\r\n",
            "",
            "HTTP/1.1 200 OK\r\ncontent-length: 4\r\nconnection: close\r\n\r\n",
            "HTTP/1.1 200 OK\r\ncontent-length: 4\r\nconnection: close\r\n\r\ntrue",
        ]);
        let mut patience = Patience::new("a test", Duration::from_secs(30));
        let answer = Server::insist(&mut patience, || server.get("/x", None)?.json::<bool>());
        assert!(answer.unwrap());
    }

    #[test]
    fn an_endless_answer_is_cut() {
        let server = answering(&["HTTP/1.1 200 OK\r\nconnection: close\r\n\r\n0123456789"]);
        assert!(server.get("/x", None).unwrap().bytes(5).is_err());
    }
}
