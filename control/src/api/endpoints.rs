//! Endpoints: pushed to services, and shown.

use std::sync::Arc;
use std::time::Duration;

use axum::extract::{self, Path};
use axum::http::{HeaderMap, StatusCode};
use axum::response::{IntoResponse, Response};
use config::{Diagnostics, EndpointPush, Source};
use serde_json::{Value as Json, json};

use super::body::{Query, Text, expect_json};
use super::{Shared, json_response};
use crate::auth::Caller;
use crate::data_plane::DataPlane;
use crate::phase::Phase;
use crate::problem::Problem;
use crate::pushed::Refused;
use crate::state::State;

/// What diagnostics call the text of a push.
const BODY: &str = "(body)";

/// `PUT /v1/services/{name}/endpoints`
pub(super) async fn put<P: DataPlane>(
    extract::State(state): Shared<P>,
    caller: Caller,
    Path(name): Path<String>,
    query: Query,
    headers: HeaderMap,
    Text(body): Text,
) -> Result<Response, Problem> {
    expect_json(&headers)?;
    let push = EndpointPush::replacement(BODY, &body).map_err(|found| invalid(&found))?;
    apply(&state, &caller, vec![(name, push)], query.wait_or_usual()?).await
}

/// `PATCH /v1/services/{name}/endpoints`
pub(super) async fn patch<P: DataPlane>(
    extract::State(state): Shared<P>,
    caller: Caller,
    Path(name): Path<String>,
    query: Query,
    headers: HeaderMap,
    Text(body): Text,
) -> Result<Response, Problem> {
    expect_json(&headers)?;
    let push = EndpointPush::edit(BODY, &body).map_err(|found| invalid(&found))?;
    apply(&state, &caller, vec![(name, push)], query.wait_or_usual()?).await
}

/// `POST /v1/endpoints`
pub(super) async fn post<P: DataPlane>(
    extract::State(state): Shared<P>,
    caller: Caller,
    query: Query,
    headers: HeaderMap,
    Text(body): Text,
) -> Result<Response, Problem> {
    expect_json(&headers)?;
    let pushes = EndpointPush::several(BODY, &body).map_err(|found| invalid(&found))?;
    apply(&state, &caller, pushes, query.wait_or_usual()?).await
}

/// `GET /v1/services`
pub(super) async fn services<P: DataPlane>(extract::State(state): Shared<P>) -> Response {
    let newest = state.desired.newest();
    let services = newest.loaded.config.services.iter();
    let one = |service: &config::Service| match &service.source {
        Source::Endpoints(endpoints) => json!({
            "name": &*service.name, "source": "endpoints", "endpoints": endpoints.len(),
        }),
        Source::Pushed { .. } => {
            let set = state.desired.pushed.get(&service.name);
            let age = set.as_ref().and_then(|set| set.at.elapsed().ok());
            json!({
                "name": &*service.name,
                "source": "pushed",
                "endpoints": set.as_ref().map_or(0, |set| set.endpoints.len()),
                "version": set.as_ref().map(|set| set.version),
                "age_s": age.map(|age| age.as_secs_f64()),
            })
        }
        Source::Dns(_) => {
            let found = state.desired.found.get(&service.name);
            let age = found.as_ref().and_then(|found| found.at?.elapsed().ok());
            json!({
                "name": &*service.name,
                "source": "dns",
                "endpoints": found.as_ref().map_or(0, |found| found.endpoints.len()),
                "age_s": age.map(|age| age.as_secs_f64()),
                "failure": found.and_then(|found| found.failure),
            })
        }
    };
    json_response(&Json::from(services.map(one).collect::<Vec<_>>()))
}

/// `GET /v1/endpoints`
pub(super) async fn endpoints<P: DataPlane>(extract::State(state): Shared<P>) -> Response {
    let newest = state.desired.newest();
    let mut list = Vec::new();
    for service in &newest.loaded.config.services {
        let pushed = state.desired.pushed.get(&service.name);
        let found = state.desired.found.get(&service.name);
        let endpoints = match (&pushed, &found) {
            (Some(set), _) => &set.endpoints[..],
            (None, Some(found)) => &found.endpoints[..],
            (None, None) => service.source.endpoints(),
        };
        list.extend(endpoints.iter().map(|endpoint| {
            json!({
                "service": &*service.name,
                "address": endpoint.address.to_string(),
                "weight": endpoint.weight,
            })
        }));
    }
    json_response(&Json::from(list))
}

async fn apply<P: DataPlane>(
    state: &Arc<State<P>>,
    caller: &Caller,
    pushes: Vec<(String, EndpointPush)>,
    wait: Duration,
) -> Result<Response, Problem> {
    let _turn = state.desired.take_turn().await;
    if *state.phase.borrow() == Phase::Draining {
        let detail = "the process is going down; push to the next one";
        return Err(Problem::new(StatusCode::SERVICE_UNAVAILABLE, "draining", detail));
    }
    let newest = state.desired.newest();
    let accepted = state.desired.pushed.accept(&newest.loaded.config, pushes);
    let accepted = accepted.map_err(|refused| problem(&refused))?;
    let workers = state.plane.workers();
    if accepted.is_empty() {
        let body = json!({ "changed": [], "live": workers, "workers": workers });
        return Ok(json_response(&body));
    }
    let sets: Vec<_> =
        accepted.iter().map(|(name, set)| (name.clone(), set.endpoints.clone())).collect();
    let mut live = state
        .tell_endpoints(&sets)
        .map_err(|why| Problem::new(StatusCode::NOT_FOUND, "not_found", why))?;
    let changed: Vec<Json> = accepted
        .iter()
        .map(|(name, set)| {
            json!({ "service": name, "version": set.version, "endpoints": set.endpoints.len() })
        })
        .collect();
    for (name, set) in &accepted {
        let (version, count) = (set.version, set.endpoints.len());
        let by = caller.by();
        state
            .desired
            .say(format_args!("audit: endpoints of {name}{by}: version {version}, {count}"));
    }
    state.desired.pushed.keep(accepted);
    state.save_endpoints_soon();
    // Nobody is left to tell of more: as settled as it gets.
    let _ = tokio::time::timeout(wait, live.wait_for(|live| *live >= workers)).await;
    let live = *live.borrow();
    let body = json_response(&json!({ "changed": changed, "live": live, "workers": workers }));
    match live >= workers {
        true => Ok(body),
        false => Ok((StatusCode::ACCEPTED, body).into_response()),
    }
}

fn invalid(found: &Diagnostics) -> Problem {
    let is_syntax = found.list.iter().any(|one| one.message.starts_with("this is not JSON"));
    let problem = match is_syntax {
        true => Problem::new(StatusCode::BAD_REQUEST, "not_parseable", "this is not JSON"),
        false => Problem::new(
            StatusCode::UNPROCESSABLE_ENTITY,
            "invalid_endpoints",
            "the endpoints stay as they are",
        ),
    };
    problem.diagnostics(found)
}

fn problem(refused: &Refused) -> Problem {
    match refused {
        Refused::NoService(name) => Problem::new(
            StatusCode::NOT_FOUND,
            "not_found",
            format!("there is no service {name}; GET /v1/services lists them"),
        ),
        Refused::NotPushed(name, whence) => Problem::new(
            StatusCode::CONFLICT,
            "not_pushed",
            format!("the endpoints of {name} {whence}; give it `pushed: {{}}` instead"),
        ),
        Refused::Stale { service, live } => Problem::new(
            StatusCode::CONFLICT,
            "stale_version",
            format!("version {live} of {service} is live; push a higher one"),
        ),
        Refused::NothingToEdit(name) => Problem::new(
            StatusCode::CONFLICT,
            "never_pushed",
            format!("nothing was pushed to {name} yet; PUT the whole set first"),
        ),
    }
}
