//! The REST interface on the admin listener.

mod body;
mod config;
mod endpoints;
mod events;
mod lifecycle;
mod status;

use std::sync::Arc;

use axum::Router;
use axum::extract;
use axum::extract::{DefaultBodyLimit, Request};
use axum::http::{StatusCode, header};
use axum::middleware::{self, Next};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post, put};
use serde_json::{Value as Json, json};

use crate::data_plane::{DataPlane, EndpointState};
use crate::probes;
use crate::problem::Problem;
use crate::state::State;

/// What handlers are given.
type Shared<P> = extract::State<Arc<State<P>>>;

pub(crate) fn router<P: DataPlane>(state: Arc<State<P>>) -> Router {
    let exists = "GET /openapi.json says what admin serves";
    let routes = probes::routes()
        .route("/version", get(version))
        .route("/openapi.json", get(async || json_response(&openapi())))
        .route("/v1/config", get(config::get_all).put(config::put_all))
        .route("/v1/config/batch", post(config::batch))
        .route("/v1/config/rollback", post(config::rollback))
        .route("/v1/config/generations", get(config::generations))
        .route("/v1/config/generations/{number}", get(config::generation))
        .route(
            "/v1/config/{kind}/{name}",
            get(config::get_item).put(config::put_item).delete(config::delete_item),
        )
        .route("/v1/services", get(endpoints::services))
        .route("/v1/services/{name}/endpoints", put(endpoints::put).patch(endpoints::patch))
        .route("/v1/services/{name}/eject", endpoints::set_state(EndpointState::Ejected))
        .route("/v1/services/{name}/restore", endpoints::set_state(EndpointState::Healthy))
        .route("/v1/services/{name}/drain", endpoints::set_state(EndpointState::Draining))
        .route("/v1/endpoints", get(endpoints::endpoints).post(endpoints::post))
        .route("/v1/status", get(status::status))
        .route("/v1/workers", get(status::workers))
        .route("/v1/listeners", get(status::listeners))
        .route("/v1/routes", get(status::routes))
        .route("/v1/connections", get(status::connections))
        .route("/v1/limits", get(status::limits))
        .route("/v1/events", get(events::events))
        .route("/v1/explain", post(status::explain))
        .route("/v1/drain", post(lifecycle::drain))
        .route("/v1/undrain", post(lifecycle::undrain))
        .route("/v1/quit", post(lifecycle::quit))
        .route("/", get(not_yet))
        .route("/v1/certs", get(not_yet))
        .route("/v1/tap", get(not_yet))
        .layer(DefaultBodyLimit::max(body::BODY_BYTES_MAX))
        .layer(middleware::from_fn_with_state(state.clone(), guard::<P>));
    probes::with_refusals(routes.with_state(state), exists)
}

/// The dashboard, certificates and the tap.
async fn not_yet() -> Problem {
    let detail = "not supported yet; GET /openapi.json says what admin serves";
    Problem::new(StatusCode::NOT_IMPLEMENTED, "not_supported_yet", detail)
}

/// Lets those pass who may, and notes who they are.
async fn guard<P: DataPlane>(
    extract::State(state): Shared<P>,
    mut request: Request,
    next: Next,
) -> Response {
    match state.guard.check(request.method(), request.uri().path(), request.headers()) {
        Ok(caller) => {
            request.extensions_mut().insert(caller);
            next.run(request).await
        }
        Err(problem) => problem.into_response(),
    }
}

/// Every path with its methods. Held against the router by a test.
pub(crate) const PATHS: [(&str, &[(&str, &str)]); 28] = [
    ("/livez", &[("get", "200 while every worker answers")]),
    ("/readyz", &[("get", "200 while this proxy wants traffic")]),
    ("/metrics", &[("get", "Prometheus text")]),
    ("/version", &[("get", "Which program runs which config")]),
    ("/openapi.json", &[("get", "This document")]),
    (
        "/v1/config",
        &[
            ("get", "The config that is live; ?effective=true with defaults filled in"),
            ("put", "Replaces it whole; If-Match, ?dry_run=true, ?wait=5s"),
        ],
    ),
    (
        "/v1/config/batch",
        &[("post", "{put: {KIND: [ITEM]}, delete: {KIND: [NAME]}}, all or nothing")],
    ),
    (
        "/v1/config/rollback",
        &[("post", "{generation}: an earlier config again; left out, the one before")],
    ),
    ("/v1/config/generations", &[("get", "The configs that were live")]),
    ("/v1/config/generations/{number}", &[("get", "One of them; ?wait=30s until it is live")]),
    (
        "/v1/config/{kind}/{name}",
        &[
            ("get", "One of listeners, services, routes or tcp_routes"),
            ("put", "Puts it in place or at the end; If-Match, ?dry_run=true, ?wait=5s"),
            ("delete", "Takes it out"),
        ],
    ),
    (
        "/v1/services",
        &[("get", "Each service, where its endpoints come from and how many they are")],
    ),
    (
        "/v1/services/{name}/endpoints",
        &[
            ("put", "{version, endpoints: [ENDPOINT]}: all of them; ?wait=5s"),
            ("patch", "{version, upsert: [ENDPOINT], remove: [ADDRESS]}"),
        ],
    ),
    ("/v1/services/{name}/eject", &[("post", "{endpoint}: it gets no requests until restored")]),
    ("/v1/services/{name}/restore", &[("post", "{endpoint}: it gets requests again")]),
    (
        "/v1/services/{name}/drain",
        &[("post", "{endpoint}: no requests, and its connections are closed as they rest")],
    ),
    (
        "/v1/endpoints",
        &[
            ("get", "Each endpoint of each service, its state and what is under way there"),
            ("post", "{services: {NAME: {version, endpoints}}}, all or nothing"),
        ],
    ),
    ("/v1/status", &[("get", "What runs, and whether it would come back after a restart")]),
    ("/v1/workers", &[("get", "Each worker, and whether it answers")]),
    ("/v1/listeners", &[("get", "Where each listens, with its real port")]),
    ("/v1/routes", &[("get", "What each does, and how many requests it took")]),
    (
        "/v1/connections",
        &[("get", "Connections from clients; ?limit=1000 of each worker, at most 5000")],
    ),
    ("/v1/limits", &[("get", "What is bounded, and how much of that is taken")]),
    (
        "/v1/events",
        &[(
            "get",
            "What happens, as it does (server-sent events); Last-Event-ID goes on from there",
        )],
    ),
    ("/v1/explain", &[("post", "{method, url, headers, from, listener}: which route and why")]),
    ("/v1/drain", &[("post", "Not ready, and connections are sent away as they rest")]),
    ("/v1/undrain", &[("post", "Takes traffic again")]),
    ("/v1/quit", &[("post", "Ends the process as SIGTERM does")]),
];

fn openapi() -> Json {
    let problem = json!({
        "description": "Refused; nothing has changed",
        "content": { "application/problem+json": { "schema": { "type": "object" } } },
    });
    let mut paths = serde_json::Map::new();
    for (path, methods) in PATHS {
        let parameters: Vec<Json> = path
            .split('/')
            .filter_map(|part| part.strip_prefix('{')?.strip_suffix('}'))
            .map(|name| {
                json!({ "name": name, "in": "path", "required": true, "schema": { "type": "string" } })
            })
            .collect();
        let methods = methods.iter().map(|(method, summary)| {
            let operation = json!({
                "summary": summary,
                "parameters": parameters,
                "responses": { "200": { "description": "OK" }, "default": problem },
            });
            ((*method).to_owned(), operation)
        });
        paths.insert(path.to_owned(), Json::Object(methods.collect()));
    }
    json!({
        "openapi": "3.1.0",
        "info": { "title": "ringside admin", "version": env!("CARGO_PKG_VERSION") },
        "paths": paths,
    })
}

fn json_response(body: &Json) -> Response {
    ([(header::CONTENT_TYPE, "application/json")], format!("{body}\n")).into_response()
}

/// Which program runs which config.
async fn version<P: DataPlane>(extract::State(state): Shared<P>) -> Response {
    let newest = state.desired.newest();
    json_response(&json!({
        "version": state.program.version,
        "generation": newest.number,
        "config_hash": newest.loaded.hash,
        "io_backend": state.program.io_backend,
    }))
}
