//! What a request brings: its notation, its conditions, how long it waits.

use std::time::Duration;

use axum::body::Bytes;
use axum::extract::{self, FromRequest, FromRequestParts, Request};
use axum::http::request::Parts;
use axum::http::{HeaderMap, StatusCode, header};
use config::Format;
use http_body_util::{BodyExt, LengthLimitError, Limited};
use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::{Map, Value as Json};
use tokio::time::timeout;

use crate::auth::Caller;
use crate::problem::Problem;

/// What a config's text may have.
pub(super) const BODY_BYTES_MAX: usize = 32 << 20;
/// Between two pieces of it.
const BODY_IDLE: Duration = Duration::from_secs(5);
/// Nobody waits longer in one request.
const WAIT_MAX: Duration = Duration::from_secs(50);
/// Where the request does not say: workers take milliseconds.
const WAIT_USUAL: Duration = Duration::from_secs(5);

/// The query of a request that reads or changes the config. Which of it an operation takes is said
/// elsewhere (`openapi.rs`).
#[derive(Default, Deserialize)]
pub(super) struct Query {
    #[serde(default)]
    pub(super) dry_run: bool,
    #[serde(default)]
    pub(super) effective: bool,
    wait: Option<String>,
}

impl<S: Send + Sync> FromRequestParts<S> for Query {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Query, Problem> {
        let extract::Query(query) = extract::Query::from_request_parts(parts, state).await?;
        Ok(query)
    }
}

/// What the path names.
pub(super) struct Named<T>(pub(super) T);

impl<T: DeserializeOwned + Send, S: Send + Sync> FromRequestParts<S> for Named<T> {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Named<T>, Problem> {
        match extract::Path::from_request_parts(parts, state).await {
            Ok(extract::Path(names)) => Ok(Named(names)),
            Err(error) => Err(Problem::new(StatusCode::BAD_REQUEST, "bad_path", error.body_text())),
        }
    }
}

impl<S: Send + Sync> FromRequestParts<S> for Caller {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Caller, Problem> {
        Ok(parts.extensions.get::<Caller>().cloned().unwrap_or_default())
    }
}

/// A JSON object of this shape; `example` is one.
pub(super) fn object<T: DeserializeOwned>(body: &[u8], example: &str) -> Result<T, Problem> {
    // By itself serde would take a list for the fields in their order.
    let object: serde_json::Result<Map<String, Json>> = serde_json::from_slice(body);
    let value = object.and_then(|object| serde_json::from_value(Json::Object(object)));
    value.map_err(|error| {
        let detail = format!("{error}; send {example}");
        Problem::new(StatusCode::BAD_REQUEST, "not_parseable", detail)
    })
}

/// A request's body, whole.
pub(super) struct Text(pub(super) Bytes);

impl<S: Send + Sync> FromRequest<S> for Text {
    type Rejection = Problem;

    async fn from_request(request: Request, _: &S) -> Result<Text, Problem> {
        let length = request.headers().get(header::CONTENT_LENGTH);
        let length = length.and_then(|length| length.to_str().ok()?.parse::<usize>().ok());
        if length.is_some_and(|length| length > BODY_BYTES_MAX) {
            return Err(too_large());
        }
        let incomplete = |status, why| Err(Problem::new(status, "incomplete_body", why));
        let mut frames = Limited::new(request.into_body(), BODY_BYTES_MAX);
        let mut text = Vec::new();
        loop {
            match timeout(BODY_IDLE, frames.frame()).await {
                Ok(None) => return Ok(Text(text.into())),
                // Trailers are of no meaning.
                Ok(Some(Ok(frame))) => {
                    text.extend_from_slice(frame.data_ref().unwrap_or(&Bytes::new()))
                }
                Ok(Some(Err(error))) if error.is::<LengthLimitError>() => return Err(too_large()),
                Ok(Some(Err(error))) => {
                    return incomplete(StatusCode::BAD_REQUEST, error.to_string());
                }
                Err(_) => {
                    let why = format!(
                        "nothing more of it came for {} s; send it again, whole",
                        BODY_IDLE.as_secs()
                    );
                    return incomplete(StatusCode::REQUEST_TIMEOUT, why);
                }
            }
        }
    }
}

fn too_large() -> Problem {
    let detail = "a config has at most 32 MiB; push it in parts, by name or in batches";
    Problem::new(StatusCode::PAYLOAD_TOO_LARGE, "body_too_large", detail)
}

impl Query {
    /// How long to wait for the workers, if at all.
    pub(super) fn wait(&self) -> Result<Option<Duration>, Problem> {
        let Some(text) = &self.wait else { return Ok(None) };
        let wait = config::parse_time(text).map_err(|why| {
            let detail = format!("wait is a duration such as 5s or 500ms: {why}");
            Problem::new(StatusCode::BAD_REQUEST, "bad_query", detail)
        })?;
        Ok(Some(wait.min(WAIT_MAX)))
    }

    pub(super) fn wait_or_usual(&self) -> Result<Duration, Problem> {
        Ok(self.wait()?.unwrap_or(WAIT_USUAL))
    }
}

/// The notation of a PUT's body, by its content type.
pub(super) fn format(headers: &HeaderMap) -> Result<Format, Problem> {
    match media_type(headers).as_deref() {
        Some("application/json") => Ok(Format::Json),
        Some("application/yaml" | "application/x-yaml" | "text/yaml") => Ok(Format::Yaml),
        Some("application/toml") => Ok(Format::Toml),
        _ => Err(Problem::new(
            StatusCode::UNSUPPORTED_MEDIA_TYPE,
            "unsupported_media_type",
            "send content-type: application/json, application/yaml or application/toml",
        )),
    }
}

/// A POST says that it is JSON: a web page cannot, unless it is asked first.
pub(super) fn expect_json(headers: &HeaderMap) -> Result<(), Problem> {
    match media_type(headers).as_deref() {
        Some("application/json") => Ok(()),
        _ => Err(Problem::new(
            StatusCode::UNSUPPORTED_MEDIA_TYPE,
            "unsupported_media_type",
            "send content-type: application/json",
        )),
    }
}

fn media_type(headers: &HeaderMap) -> Option<String> {
    let given = headers.get(header::CONTENT_TYPE)?.to_str().ok()?;
    Some(given.split(';').next().unwrap_or_default().trim().to_ascii_lowercase())
}

/// The hashes of If-Match (RFC 9110 §13.1.1), of which `*` is any; `None` where nothing is expected.
pub(super) fn if_match(headers: &HeaderMap) -> Option<Vec<String>> {
    let mut given = headers.get_all(header::IF_MATCH).iter().peekable();
    given.peek()?;
    let tags = given.filter_map(|value| value.to_str().ok()).flat_map(|list| list.split(','));
    let tags: Vec<&str> = tags.map(str::trim).collect();
    Some(tags.iter().map(|tag| tag.trim_matches('"').to_owned()).collect())
}

/// If-None-Match with `*`: only where there is none yet (RFC 9110 §13.1.2).
pub(super) fn must_be_new(headers: &HeaderMap) -> bool {
    headers.get(header::IF_NONE_MATCH).is_some_and(|value| value.as_bytes().trim_ascii() == b"*")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(name: header::HeaderName, values: &[&str]) -> HeaderMap {
        values.iter().map(|value| (name.clone(), value.parse().unwrap())).collect()
    }

    #[test]
    fn conditions() {
        let tags = |values: &[&str]| if_match(&headers(header::IF_MATCH, values));
        assert_eq!(tags(&[]), None);
        assert_eq!(tags(&["*"]), Some(vec!["*".to_owned()]));
        assert_eq!(tags(&["\"a\", \"b\""]), Some(vec!["a".to_owned(), "b".to_owned()]));
        assert_eq!(tags(&[""]), Some(vec![String::new()]), "matches nothing");
    }

    #[test]
    fn notations() {
        let format = |value| format(&headers(header::CONTENT_TYPE, &[value])).ok();
        assert_eq!(format("application/json; charset=utf-8"), Some(Format::Json));
        assert_eq!(format("Application/YAML"), Some(Format::Yaml));
        assert_eq!(format("application/toml"), Some(Format::Toml));
        assert_eq!(format("application/x-www-form-urlencoded"), None);
    }

    #[tokio::test(start_paused = true)]
    async fn a_body_that_does_not_go_on_is_not_waited_for() {
        let (mut sender, body) = http_body_util::channel::Channel::<Bytes>::new(1);
        let request = Request::new(axum::body::Body::new(body));
        let begin = tokio::time::Instant::now();
        let (read, _) = tokio::join!(Text::from_request(request, &()), async {
            for _ in 0..3 {
                sender.send_data(Bytes::from("{")).await.unwrap();
                tokio::time::sleep(BODY_IDLE / 2).await;
            }
        });
        assert!(read.is_err_and(|problem| problem.status == StatusCode::REQUEST_TIMEOUT));
        assert_eq!(begin.elapsed(), BODY_IDLE * 2, "since its last piece");
    }

    #[test]
    fn objects() {
        #[derive(Deserialize)]
        struct One {
            _a: u32,
        }
        let reads = |text: &str| object::<One>(text.as_bytes(), "").is_ok();
        assert!(reads(r#"{"_a": 1}"#));
        assert!(!reads("[1]") && !reads("null") && !reads("{}"));
    }

    #[test]
    fn waits() {
        let wait = |text: &str| {
            Query { wait: Some(text.to_owned()), ..Query::default() }.wait().ok().flatten()
        };
        assert_eq!(wait("5s"), Some(Duration::from_secs(5)));
        assert_eq!(wait("250ms"), Some(Duration::from_millis(250)));
        assert_eq!(wait("999s"), Some(WAIT_MAX));
        assert_eq!(wait("2h"), Some(WAIT_MAX));
        assert_eq!(wait("0s"), Some(Duration::ZERO));
        assert_eq!(wait("5"), None);
    }
}
