//! The OpenAPI document: one table of routes, from which the document is built.

use axum::Json;
use serde_json::{Map, Value, json};

use crate::api_types::API_PREFIX;

/// Method, path, what it does, whether it takes a JSON body.
type Route = (&'static str, &'static str, &'static str, bool);

/// Every route under the prefix.
pub(super) const ROUTES: [Route; 33] = [
    ("get", "/site", "The site itself", false),
    ("get", "/openapi.json", "This document", false),
    ("get", "/pairs", "Every pair", false),
    ("post", "/pairs/key", "Print one pair key", true),
    ("post", "/pairs/join", "Pair with the site that printed a key", true),
    ("post", "/pairs/{peer}/set", "Say where a peer is reached", true),
    ("post", "/pairs/{peer}/replace", "Have the plans of a peer go on with another", true),
    ("post", "/pairs/{peer}/rotate", "Replace the certificate authorities of a pair", false),
    ("delete", "/pairs/{peer}", "Cut a peer off", false),
    ("get", "/plans", "Every plan", false),
    ("post", "/plans", "Apply plans, schedule policies and rules", true),
    ("get", "/plans/{name}", "A plan as it was written", false),
    ("delete", "/plans/{name}", "Forget a plan; with purge=true its restore points here, too", false),
    ("get", "/plans/{name}/proposed", "What the other side proposes and this site has not accepted", false),
    ("post", "/plans/{name}/accept", "Accept what the other side proposes", true),
    ("post", "/plans/{name}/suspend", "Stop its schedule", false),
    ("post", "/plans/{name}/resume", "Start its schedule", false),
    ("post", "/plans/{name}/sync", "Run one cycle now", true),
    ("get", "/plans/{name}/status", "How it is doing", false),
    ("get", "/plans/{name}/restore-points", "Its restore points", false),
    ("get", "/plans/{name}/diff", "What differs between two restore points", false),
    ("post", "/plans/{name}/restore", "Take files out of a restore point", true),
    ("post", "/plans/{name}/promote", "Take over", true),
    ("post", "/plans/{name}/switchover", "Hand over to the other side", false),
    ("post", "/plans/{name}/failback", "Hand back to the side the plan was made on", false),
    ("post", "/plans/{name}/drill", "Rehearse a takeover in isolation", true),
    ("delete", "/plans/{name}/drill", "Remove what a kept drill left", false),
    ("get", "/plans/{name}/drills", "Its drills, oldest first", false),
    ("post", "/promote-all", "Take over every standby plan", true),
    ("get", "/status", "How every plan is doing", false),
    ("post", "/verify", "Re-hash packs, restore points and replicas", true),
    ("post", "/gc", "Free what no restore point needs", true),
    ("get", "/audit", "What was done, by whom", false),
];

fn operation((_, path, summary, body): &Route) -> Value {
    let names = path.split('/').filter_map(|part| part.strip_prefix('{')?.strip_suffix('}'));
    let in_path =
        |name: &str| json!({"name": name, "in": "path", "required": true, "schema": {"type": "string"}});
    let in_query = |name: &str| json!({"name": name, "in": "query", "schema": {"type": "string"}});
    let queries: &[&str] = match *path {
        "/plans/{name}/diff" => &["a", "b"],
        "/audit" => &["since", "after"],
        "/plans/{name}" => &["purge"],
        _ => &[],
    };
    let parameters: Vec<Value> =
        names.map(in_path).chain(queries.iter().map(|name| in_query(name))).collect();
    let mut operation = json!({
        "summary": summary,
        "parameters": parameters,
        "responses": {
            "200": {"description": "Done", "content": {"application/json": {"schema": {"type": "object"}}}},
            "default": {"description": "Failed", "content": {"application/json": {"schema": {"$ref": "#/components/schemas/Error"}}}},
        },
    });
    if *body && let Some(object) = operation.as_object_mut() {
        let content =
            json!({"required": true, "content": {"application/json": {"schema": {"type": "object"}}}});
        object.insert("requestBody".to_owned(), content);
    }
    operation
}

/// `GET /openapi.json`.
pub(super) async fn document() -> Json<Value> {
    Json(build())
}

fn build() -> Value {
    let mut paths = Map::new();
    for route in &ROUTES {
        let path = paths.entry(format!("{API_PREFIX}{}", route.1)).or_insert_with(|| json!({}));
        if let Some(path) = path.as_object_mut() {
            path.insert(route.0.to_owned(), operation(route));
        }
    }
    let error = json!({
        "type": "object",
        "required": ["error"],
        "properties": {"error": {
            "type": "object",
            "required": ["class", "message"],
            "properties": {"class": {"type": "string"}, "message": {"type": "string"}, "hint": {"type": ["string", "null"]}},
        }},
    });
    json!({
        "openapi": "3.1.0",
        "info": {"title": "Backstay admin API", "version": env!("CARGO_PKG_VERSION"), "license": {"name": "Apache-2.0"}},
        "paths": paths,
        "components": {"schemas": {"Error": error}},
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_route_is_in_the_document() {
        let document = build();
        for (method, path, summary, _) in ROUTES {
            let pointer = format!("{API_PREFIX}{path}").replace('/', "~1");
            let found = document.pointer(&format!("/paths/{pointer}/{method}/summary"));
            assert_eq!(found.and_then(Value::as_str), Some(summary), "{method} {path}");
        }
    }
}
