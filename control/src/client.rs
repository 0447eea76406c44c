//! The other end of the admin interface: one question to a running ringside.

use std::io;
use std::time::Duration;

use axum::body::Bytes;
use axum::http::{Method, Request, Uri, header};
use http_body_util::{BodyExt, Full, Limited};
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpStream, UnixStream};
use tokio::runtime;
use tokio::time::timeout;

use crate::listen::Listen;

/// From the connect to the answer's last byte: longer than a request may wait for workers.
const ANSWER_WITHIN: Duration = Duration::from_secs(60);
/// A config, and what is said of it.
const ANSWER_BYTES_MAX: usize = 256 << 20;

/// A request to admin.
#[derive(Clone, Debug, Default)]
pub struct Question {
    pub method: Method,
    /// With its query, from `/` on.
    pub path: String,
    /// Sent with a content type.
    pub body: Option<(&'static str, Vec<u8>)>,
    /// Of the one that has to be live.
    pub if_match: Option<String>,
    pub token: Option<String>,
}

/// What admin answers.
#[derive(Clone, Debug)]
pub struct Reply {
    pub status: u16,
    pub body: Vec<u8>,
}

/// Asks the ringside whose admin listens there. Blocks.
///
/// # Errors
/// Nobody listens there, or no answer came within a minute.
pub fn ask(admin: &Listen, question: Question) -> io::Result<Reply> {
    let runtime = runtime::Builder::new_current_thread().enable_all().build()?;
    let answer = async {
        match admin {
            Listen::Unix(path) => {
                exchange(UnixStream::connect(path).await?, "localhost", question).await
            }
            Listen::Tcp(address) => {
                let stream = TcpStream::connect(address).await?;
                exchange(stream, &address.to_string(), question).await
            }
        }
    };
    let in_time = runtime.block_on(async { timeout(ANSWER_WITHIN, answer).await });
    in_time.unwrap_or_else(|_| Err(io::Error::from(io::ErrorKind::TimedOut)))
}

async fn exchange<S>(stream: S, host: &str, question: Question) -> io::Result<Reply>
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let (mut sender, connection) =
        http1::handshake(TokioIo::new(stream)).await.map_err(io::Error::other)?;
    // It ends with the exchange, whose own error says what is wrong.
    tokio::spawn(connection);
    let uri: Uri = question.path.parse().map_err(io::Error::other)?;
    let mut request =
        Request::builder().method(question.method).uri(uri).header(header::HOST, host);
    let body = question.body.map(|(kind, body)| {
        request = std::mem::take(&mut request).header(header::CONTENT_TYPE, kind);
        body
    });
    if let Some(tag) = question.if_match {
        request = request.header(header::IF_MATCH, format!("\"{}\"", tag.trim_matches('"')));
    }
    if let Some(token) = question.token {
        request = request.header(header::AUTHORIZATION, format!("Bearer {token}"));
    }
    let body = Full::new(Bytes::from(body.unwrap_or_default()));
    let request = request.body(body).map_err(io::Error::other)?;
    let response = sender.send_request(request).await.map_err(io::Error::other)?;
    let status = response.status().as_u16();
    let body = Limited::new(response.into_body(), ANSWER_BYTES_MAX).collect().await;
    let body = body.map_err(io::Error::other)?.to_bytes().to_vec();
    Ok(Reply { status, body })
}
