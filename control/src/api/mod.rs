//! The REST interface on the admin listener.

mod body;
mod config;
mod endpoints;
mod events;
mod lifecycle;
mod openapi;
mod status;

use std::sync::Arc;

use axum::Router;
use axum::extract;
use axum::extract::{MatchedPath, Request};
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
        .route("/openapi.json", get(async || json_response(&openapi::document())))
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
        .layer(middleware::from_fn_with_state(state.clone(), guard::<P>));
    probes::with_refusals(routes.with_state(state), exists)
}

/// The dashboard, certificates and the tap.
async fn not_yet() -> Problem {
    let detail = "not supported yet; GET /openapi.json says what admin serves";
    Problem::new(StatusCode::NOT_IMPLEMENTED, "not_supported_yet", detail)
}

/// Lets those pass who may and ask for what there is, and notes who they are.
async fn guard<P: DataPlane>(
    extract::State(state): Shared<P>,
    path: Option<MatchedPath>,
    mut request: Request,
    next: Next,
) -> Response {
    let (method, uri) = (request.method(), request.uri());
    let caller = state.guard.check(method, uri.path(), request.headers()).and_then(|caller| {
        openapi::check_query(path.as_ref(), method, uri)?;
        Ok(caller)
    });
    match caller {
        Ok(caller) => {
            request.extensions_mut().insert(caller);
            next.run(request).await
        }
        Err(problem) => problem.into_response(),
    }
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
