//! What admin serves, as data: the OpenAPI document, and which query parameters each operation takes.

use axum::extract::MatchedPath;
use axum::http::{Method, StatusCode, Uri};
use serde_json::{Map, Value as Json, json};

use crate::problem::Problem;

/// One method of a path.
#[derive(Clone, Copy)]
struct Operation {
    method: &'static str,
    summary: &'static str,
    query: &'static [&'static str],
    headers: &'static [&'static str],
    body: Body,
    /// 202 where not all workers have it within `wait`.
    settles: bool,
}

/// What a request brings.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Body {
    None,
    /// Nothing, or `{}`: the content type is what counts.
    Empty,
    Config,
    Item,
    Batch,
    Rollback,
    Endpoints,
    Edit,
    Several,
    Which,
    Question,
}

const fn get(summary: &'static str) -> Operation {
    let (query, headers, body) = (&[], &[], Body::None);
    Operation { method: "get", summary, query, headers, body, settles: false }
}

const fn delete(summary: &'static str) -> Operation {
    Operation { method: "delete", ..get(summary) }
}

const fn put(summary: &'static str, body: Body) -> Operation {
    Operation { method: "put", body, ..get(summary) }
}

const fn patch(summary: &'static str, body: Body) -> Operation {
    Operation { method: "patch", body, ..get(summary) }
}

const fn post(summary: &'static str, body: Body) -> Operation {
    Operation { method: "post", body, ..get(summary) }
}

impl Operation {
    const fn query(self, query: &'static [&'static str]) -> Operation {
        Operation { query, ..self }
    }

    const fn headers(self, headers: &'static [&'static str]) -> Operation {
        Operation { headers, ..self }
    }

    /// A change of the config.
    const fn changes(self) -> Operation {
        let (query, headers) = (&["dry_run", "wait"] as &[_], &["If-Match"] as &[_]);
        Operation { query, headers, settles: true, ..self }
    }

    /// A change of endpoints.
    const fn tells(self) -> Operation {
        Operation { query: &["wait"], settles: true, ..self }
    }
}

/// Every path with its operations. Held against the router by a test.
const PATHS: [(&str, &[Operation]); 28] = [
    ("/livez", &[get("200 while every worker answers")]),
    ("/readyz", &[get("200 while this proxy wants traffic")]),
    ("/metrics", &[get("Prometheus text")]),
    ("/version", &[get("Which program runs which config")]),
    ("/openapi.json", &[get("This document")]),
    (
        "/v1/config",
        &[
            get("The config that is live; effective: with defaults filled in")
                .query(&["effective"]),
            put("Replaces it whole", Body::Config).changes(),
        ],
    ),
    ("/v1/config/batch", &[post("Puts and deletes items, all or nothing", Body::Batch).changes()]),
    (
        "/v1/config/rollback",
        &[post("An earlier config again; left out, the one before", Body::Rollback).changes()],
    ),
    ("/v1/config/generations", &[get("The configs that were live")]),
    (
        "/v1/config/generations/{number}",
        &[get("One of them; wait: until it is live").query(&["wait"])],
    ),
    (
        "/v1/config/{kind}/{name}",
        &[
            get("One of listeners, services, routes or tcp_routes"),
            put("Puts it in place or at the end", Body::Item)
                .changes()
                .headers(&["If-Match", "If-None-Match"]),
            delete("Takes it out").changes(),
        ],
    ),
    ("/v1/services", &[get("Each service, where its endpoints come from and how many they are")]),
    (
        "/v1/services/{name}/endpoints",
        &[
            put("All of them; of a lower version than the last: 409", Body::Endpoints).tells(),
            patch("Some of them", Body::Edit).tells(),
        ],
    ),
    (
        "/v1/services/{name}/eject",
        &[post("It gets no requests until restored", Body::Which).tells()],
    ),
    ("/v1/services/{name}/restore", &[post("It gets requests again", Body::Which).tells()]),
    (
        "/v1/services/{name}/drain",
        &[post("No requests, and its connections are closed as they rest", Body::Which).tells()],
    ),
    (
        "/v1/endpoints",
        &[
            get("Each endpoint of each service, its state and what is under way there"),
            post("Those of several services, all or nothing", Body::Several).tells(),
        ],
    ),
    ("/v1/status", &[get("What runs, and whether it would come back after a restart")]),
    ("/v1/workers", &[get("Each worker, and whether it answers")]),
    ("/v1/listeners", &[get("Where each listens, with its real port")]),
    ("/v1/routes", &[get("What each does, and how many requests it took")]),
    (
        "/v1/connections",
        &[get("Connections from clients; of each worker 1000, or limit, at most 5000")
            .query(&["limit"])],
    ),
    ("/v1/limits", &[get("What is bounded, and how much of that is taken")]),
    (
        "/v1/events",
        &[get("What happens, as it does (server-sent events); Last-Event-ID goes on from there")
            .headers(&["Last-Event-ID"])],
    ),
    ("/v1/explain", &[post("Which route a request would take and why", Body::Question)]),
    ("/v1/drain", &[post("Not ready, and connections are sent away as they rest", Body::Empty)]),
    ("/v1/undrain", &[post("Takes traffic again", Body::Empty)]),
    ("/v1/quit", &[post("Ends the process as SIGTERM does", Body::Empty)]),
];

/// Refuses a parameter that the operation has no use for: what is misspelt is not ignored. Probes and
/// scrapes may ask as they like.
pub(super) fn check_query(
    path: Option<&MatchedPath>,
    method: &Method,
    uri: &Uri,
) -> Result<(), Problem> {
    let path = path.map_or("", MatchedPath::as_str);
    let operations = PATHS.iter().find(|(known, _)| *known == path && path.starts_with("/v1/"));
    let mut operations = operations.into_iter().flat_map(|(_, operations)| *operations);
    let Some(operation) =
        operations.find(|known| method.as_str().eq_ignore_ascii_case(known.method))
    else {
        return Ok(());
    };
    let given = uri.query().unwrap_or_default().split('&').filter(|pair| !pair.is_empty());
    let mut names = given.map(|pair| pair.split('=').next().unwrap_or_default());
    let Some(unknown) = names.find(|name| !operation.query.contains(name)) else { return Ok(()) };
    let known = match operation.query {
        [] => "this takes none".to_owned(),
        names => format!("this takes {}", names.join(" and ")),
    };
    let detail = format!("unknown parameter {unknown:?} in the query; {known}");
    Err(Problem::new(StatusCode::BAD_REQUEST, "bad_query", detail))
}

pub(super) fn document() -> Json {
    let kinds = config::Kind::ALL.map(config::Kind::as_str);
    let mut paths = Map::new();
    for (path, operations) in PATHS {
        let in_path = path
            .split('/')
            .filter_map(|part| part.strip_prefix('{')?.strip_suffix('}'))
            .map(|name| {
                let schema = match name {
                    "kind" => json!({ "enum": kinds }),
                    "number" => json!({ "type": "integer", "minimum": 1 }),
                    _ => json!({ "type": "string" }),
                };
                json!({ "name": name, "in": "path", "required": true, "schema": schema })
            });
        let in_path: Vec<Json> = in_path.collect();
        let operations = operations
            .iter()
            .map(|operation| (operation.method.to_owned(), described(operation, &in_path)));
        paths.insert(path.to_owned(), Json::Object(operations.collect()));
    }
    json!({
        "openapi": "3.1.0",
        "info": { "title": "ringside admin", "version": env!("CARGO_PKG_VERSION") },
        "security": [{}, { "token": [] }],
        "paths": paths,
        "components": {
            "securitySchemes": { "token": {
                "type": "http", "scheme": "bearer",
                "description": "on every TCP address; a Unix socket needs none unless one is configured",
            } },
            "schemas": schemas(),
        },
    })
}

fn described(operation: &Operation, in_path: &[Json]) -> Json {
    let in_query = operation.query.iter().map(|name| {
        let schema = match *name {
            "wait" => json!({ "type": "string", "pattern": "^[0-9]+(s|ms)$" }),
            "limit" => json!({ "type": "integer", "minimum": 0 }),
            _ => json!({ "type": "boolean" }),
        };
        json!({ "name": name, "in": "query", "schema": schema })
    });
    let in_head = operation
        .headers
        .iter()
        .map(|name| json!({ "name": name, "in": "header", "schema": { "type": "string" } }));
    let parameters: Vec<Json> = in_path.iter().cloned().chain(in_query).chain(in_head).collect();
    let mut responses = json!({
        "200": { "description": "OK" },
        "default": {
            "description": "Refused; nothing has changed",
            "content": { "application/problem+json": { "schema": reference("Problem") } },
        },
    });
    if operation.settles {
        let text = "Taken; not all workers have it yet: GET /v1/config/generations/N?wait=30s";
        responses["202"] = json!({ "description": text });
    }
    let mut described = json!({
        "summary": operation.summary, "parameters": parameters, "responses": responses,
    });
    if let Some(body) = body(operation.body) {
        described["requestBody"] = body;
    }
    described
}

/// The request body as the document has it.
fn body(body: Body) -> Option<Json> {
    let notations: &[&str] = match body {
        Body::None => return None,
        Body::Config | Body::Item => &["application/json", "application/yaml", "application/toml"],
        _ => &["application/json"],
    };
    let schema = match body {
        Body::None | Body::Empty => json!({ "type": "object" }),
        Body::Config => reference("Config"),
        Body::Item => reference("Item"),
        Body::Batch => reference("Batch"),
        Body::Rollback => object(&json!({ "generation": { "type": "integer" } }), &[]),
        Body::Endpoints => reference("Endpoints"),
        Body::Edit => {
            let removed = json!({ "type": "array", "items": { "type": "string" } });
            let properties = json!({
                "version": version(), "upsert": list_of("Endpoint"), "remove": removed,
            });
            object(&properties, &["version"])
        }
        Body::Several => {
            let sets = json!({ "type": "object", "additionalProperties": reference("Endpoints") });
            object(&json!({ "services": sets }), &["services"])
        }
        Body::Which => object(&json!({ "endpoint": { "type": "string" } }), &["endpoint"]),
        Body::Question => {
            let text = json!({ "type": "string" });
            let headers = json!({ "type": "object", "additionalProperties": text });
            let properties = json!({
                "method": text, "url": text, "headers": headers, "from": text, "listener": text,
            });
            object(&properties, &["url"])
        }
    };
    let content =
        notations.iter().map(|notation| ((*notation).to_owned(), json!({ "schema": schema })));
    let content: Map<String, Json> = content.collect();
    let required = !matches!(body, Body::Empty | Body::Rollback);
    Some(json!({ "required": required, "content": content }))
}

/// What is named: the config's, out of its own schema, and what pushes are made of.
fn schemas() -> Json {
    let config = config::schema();
    let part = |pointer: &str| config.pointer(pointer).cloned().unwrap_or_default();
    let items = |list: &str| part(&format!("/properties/{list}/items"));
    let names = json!({ "type": "array", "items": { "type": "string" } });
    let kinds = [("listeners", "Listener"), ("services", "Service"), ("routes", "Route")];
    let put: Map<String, Json> =
        kinds.iter().map(|(kind, item)| ((*kind).to_owned(), list_of(item))).collect();
    let deleted: Map<String, Json> =
        kinds.iter().map(|(kind, _)| ((*kind).to_owned(), names.clone())).collect();
    let batch = json!({ "put": object(&put.into(), &[]), "delete": object(&deleted.into(), &[]) });
    let endpoints = json!({ "version": version(), "endpoints": list_of("Endpoint") });
    // Its name is in the path.
    let nameless = kinds.map(|(kind, _)| {
        let mut item = items(kind);
        item["required"] = json!([]);
        item
    });
    json!({
        "Item": { "anyOf": nameless },
        "Listener": items("listeners"),
        "Service": items("services"),
        "Route": items("routes"),
        "Endpoint": part("/properties/services/items/properties/endpoints/items"),
        "Batch": object(&batch, &[]),
        "Endpoints": object(&endpoints, &["version", "endpoints"]),
        "Problem": {
            "type": "object",
            "properties": {
                "type": { "type": "string" },
                "title": { "type": "string" },
                "status": { "type": "integer" },
                "detail": { "type": "string" },
                "errors": { "type": "array", "items": { "type": "object" } },
            },
            "required": ["title", "status", "detail"],
        },
        "Config": config,
    })
}

fn reference(name: &str) -> Json {
    json!({ "$ref": format!("#/components/schemas/{name}") })
}

fn list_of(name: &str) -> Json {
    json!({ "type": "array", "items": reference(name) })
}

fn version() -> Json {
    json!({ "type": "integer", "minimum": 0 })
}

fn object(properties: &Json, required: &[&str]) -> Json {
    json!({
        "type": "object", "properties": properties, "required": required,
        "additionalProperties": false,
    })
}
