//! The client of the control API: HTTP with JSON over the daemon's Unix socket, one connection a request.

use std::io::ErrorKind;
use std::path::PathBuf;
use std::time::Duration;

use bytes::Bytes;
use http_body_util::{BodyExt, Full, Limited};
use hyper::header::{CONTENT_TYPE, HOST};
use hyper::{Method, Request, StatusCode};
use hyper_util::rt::TokioIo;
use serde::Serialize;
use serde::de::DeserializeOwned;
use tokio::net::UnixStream;

use crate::base::error::{Fault, Result, plain};
use crate::daemon::api::SOCKET_PATH_BYTES_MAX;

/// The longest answer taken: the status of tens of thousands of slots fits, and a runaway daemon fills no memory.
const ANSWER_BYTES_MAX: usize = 64 << 20;

/// A daemon, if one runs.
#[derive(Clone, Debug)]
pub struct Client {
    socket: PathBuf,
    /// The command that starts the daemon, for the hint.
    start: String,
    timeout: Duration,
}

impl Client {
    /// A client of the daemon that listens, or not, at this socket; `start` is the command that starts it.
    pub fn new(socket: PathBuf, start: String, timeout: Duration) -> Self {
        Self { socket, start, timeout }
    }

    /// The same daemon, given so long to answer.
    pub fn with_timeout(mut self, timeout: Duration) -> Self {
        self.timeout = timeout;
        self
    }

    pub async fn get<T: DeserializeOwned>(&self, path: &str) -> Result<T> {
        self.request(Method::GET, path, Bytes::new()).await
    }

    pub async fn post<T: DeserializeOwned>(&self, path: &str, body: &impl Serialize) -> Result<T> {
        let body =
            serde_json::to_vec(body).map_err(|error| Fault::failed(format!("cannot write the request: {error}")))?;
        self.request(Method::POST, path, body.into()).await
    }

    pub async fn patch<T: DeserializeOwned>(&self, path: &str, body: &impl Serialize) -> Result<T> {
        let body =
            serde_json::to_vec(body).map_err(|error| Fault::failed(format!("cannot write the request: {error}")))?;
        self.request(Method::PATCH, path, body.into()).await
    }

    pub async fn delete<T: DeserializeOwned>(&self, path: &str) -> Result<T> {
        self.request(Method::DELETE, path, Bytes::new()).await
    }

    /// Connects; `None` if no daemon listens.
    pub async fn connect(&self) -> Result<Option<UnixStream>> {
        match UnixStream::connect(&self.socket).await {
            Ok(stream) => Ok(Some(stream)),
            Err(error) => match error.kind() {
                // A socket whose daemon died refuses; so does a file that is no socket.
                ErrorKind::NotFound | ErrorKind::ConnectionRefused | ErrorKind::NotADirectory => Ok(None),
                ErrorKind::PermissionDenied => {
                    Err(Fault::refused(format!("may not open {}: {}", self.socket.display(), plain(&error)))
                        .hint("run this as the user that runs the daemon"))
                }
                ErrorKind::InvalidInput => Err(Fault::usage(format!(
                    "the path {} is over {SOCKET_PATH_BYTES_MAX} bytes, too long for a socket",
                    self.socket.display()
                ))
                .hint("choose a shorter --home")),
                _ => Err(Fault::unreachable(format!("cannot connect to {}: {}", self.socket.display(), plain(&error)))),
            },
        }
    }

    /// What is said when no daemon listens.
    pub fn no_daemon(&self) -> Fault {
        Fault::unreachable(format!("no daemon answers at {}", self.socket.display()))
            .hint(format!("start this machine's node: {}", self.start))
    }

    async fn request<T: DeserializeOwned>(&self, method: Method, path: &str, body: Bytes) -> Result<T> {
        let Some(stream) = self.connect().await? else { return Err(self.no_daemon()) };
        let (status, answer) = tokio::time::timeout(self.timeout, exchange(stream, method, path, body))
            .await
            .map_err(|_| Fault::timed_out(format!("the daemon did not answer within {}s", self.timeout.as_secs())))?
            .map_err(|why| Fault::unreachable(format!("the daemon broke off: {why}")).hint("see the daemon's log"))?;
        if status.is_success() {
            return serde_json::from_slice(&answer).map_err(|error| {
                Fault::failed(format!("the daemon's answer to {path} is not understood: {error}"))
                    .hint("the daemon may run another version: infinit node stop, then start it anew")
            });
        }
        Err(serde_json::from_slice(&answer).unwrap_or_else(|_| {
            Fault::failed(format!("the daemon answered {path} with HTTP {status}"))
                .hint("the daemon may run another version: infinit node stop, then start it anew")
        }))
    }
}

/// Sends one request and reads its answer. The error says why the exchange broke.
async fn exchange(
    stream: UnixStream,
    method: Method,
    path: &str,
    body: Bytes,
) -> Result<(StatusCode, Bytes), Box<dyn std::error::Error + Send + Sync>> {
    let request = Request::builder()
        .method(method)
        .uri(path)
        .header(HOST, "localhost")
        .header(CONTENT_TYPE, "application/json")
        .body(Full::new(body))?;
    let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await?;
    let ask = async move {
        let response = sender.send_request(request).await?;
        let status = response.status();
        let answer = Limited::new(response.into_body(), ANSWER_BYTES_MAX).collect().await?.to_bytes();
        Ok((status, answer))
    };
    // The connection must be driven while the answer is awaited; how it ends once the answer is here is of no matter.
    tokio::pin!(connection);
    tokio::pin!(ask);
    let mut open = true;
    loop {
        tokio::select! {
            biased;
            done = &mut ask => return done,
            _ = &mut connection, if open => open = false,
        }
    }
}
