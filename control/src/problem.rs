//! `application/problem+json` (RFC 9457): how control says no.

use std::borrow::Cow;

use axum::extract::rejection::QueryRejection;
use axum::http::{HeaderName, HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use config::Diagnostics;
use serde_json::{Value as Json, json};

use crate::data_plane::Silent;

/// A refusal: a status, a stable name and, in words, what to do next.
#[derive(Clone, Debug)]
pub(crate) struct Problem {
    pub(crate) status: StatusCode,
    pub(crate) title: &'static str,
    pub(crate) detail: Cow<'static, str>,
    /// Each with path, file, line, column, message and hint.
    errors: Option<Box<Json>>,
    header: Option<Box<(HeaderName, HeaderValue)>>,
}

impl Problem {
    pub(crate) fn new(
        status: StatusCode,
        title: &'static str,
        detail: impl Into<Cow<'static, str>>,
    ) -> Problem {
        Problem { status, title, detail: detail.into(), errors: None, header: None }
    }

    /// With everything that is wrong with a config.
    pub(crate) fn diagnostics(mut self, diagnostics: &Diagnostics) -> Problem {
        self.errors = serde_json::from_str(&diagnostics.to_json()).ok().map(Box::new);
        self
    }

    /// The named items of a config that are wrong, each once.
    pub(crate) fn items(&self) -> Vec<&str> {
        let errors = self.errors.as_deref().and_then(Json::as_array).into_iter().flatten();
        let errors = errors.filter(|error| error["severity"] == "error");
        let mut items: Vec<&str> = errors.filter_map(|error| error["item"].as_str()).collect();
        items.dedup();
        items
    }

    /// In other words.
    pub(crate) fn because(self, detail: String) -> Problem {
        Problem { detail: detail.into(), ..self }
    }

    pub(crate) fn header(mut self, name: HeaderName, value: HeaderValue) -> Problem {
        self.header = Some(Box::new((name, value)));
        self
    }
}

impl From<Silent> for Problem {
    fn from(silent: Silent) -> Problem {
        Problem::new(StatusCode::SERVICE_UNAVAILABLE, "workers_silent", silent.to_string())
    }
}

impl From<QueryRejection> for Problem {
    fn from(rejection: QueryRejection) -> Problem {
        Problem::new(StatusCode::BAD_REQUEST, "bad_query", rejection.body_text())
    }
}

impl IntoResponse for Problem {
    fn into_response(self) -> Response {
        let mut body = json!({
            "type": "about:blank",
            "title": self.title,
            "status": self.status.as_u16(),
            "detail": self.detail,
        });
        if let Some(errors) = self.errors {
            body["errors"] = *errors;
        }
        let content_type = [(header::CONTENT_TYPE, "application/problem+json")];
        let mut response = (self.status, content_type, format!("{body}\n")).into_response();
        if let Some((name, value)) = self.header.map(|header| *header) {
            response.headers_mut().insert(name, value);
        }
        response
    }
}
