//! Who is called what: names are indexed before anything is read, so that a route may name a
//! service that stands below it, and a listener with a mistake in it is not reported as missing.

use std::collections::HashMap;

use crate::config::CONFIG;
use crate::definition::Object;
use crate::diagnostic::quoted;
use crate::listener::LISTENER;
use crate::name::name;
use crate::reader::{closest, meant};
use crate::report::{Problem, Report};
use crate::route::ROUTE;
use crate::service::SERVICE;
use crate::source::Span;
use crate::tree::{Node, Value};

pub(crate) struct Names {
    listeners: Index,
    services: Index,
    /// Those listeners that speak HTTP, by index.
    http_listeners: Vec<usize>,
    /// Those of which it is not known, because of a mistake that is reported with them.
    unclear_listeners: Vec<usize>,
}

/// The names of one list, and where each stands in it.
#[derive(Default)]
struct Index {
    by_name: HashMap<String, Named>,
}

struct Named {
    index: usize,
    span: Span,
}

impl Names {
    /// Reports every name that is there twice.
    pub(crate) fn index(root: &Node, report: &mut Report<'_>) -> Names {
        let listeners = Index::of(root, "listeners", &LISTENER, report);
        let services = Index::of(root, "services", &SERVICE, report);
        Index::of(root, "routes", &ROUTE, report);
        let (mut http_listeners, mut unclear_listeners) = (Vec::new(), Vec::new());
        for (index, node) in items(meant(root, &CONFIG, "listeners")).enumerate() {
            let speaks = |what| meant(node, &LISTENER, what).is_some();
            match (speaks("http"), speaks("tcp")) {
                (true, _) => http_listeners.push(index),
                (false, true) => {}
                (false, false) => unclear_listeners.push(index),
            }
        }
        Names { listeners, services, http_listeners, unclear_listeners }
    }

    /// Index of the service that the text names.
    pub(crate) fn service(&self, node: &Node, report: &mut Report<'_>) -> Option<usize> {
        self.services.find(node, "service", report)
    }

    /// Index of the http listener that the text names.
    pub(crate) fn http_listener(&self, node: &Node, report: &mut Report<'_>) -> Option<usize> {
        let index = self.listeners.find(node, "listener", report)?;
        if self.unclear_listeners.binary_search(&index).is_ok() {
            return None;
        }
        if self.http_listeners.binary_search(&index).is_err() {
            let message = "a route needs an http listener, and this is not one";
            report.add(Problem::error(node.span, message));
            return None;
        }
        Some(index)
    }

    pub(crate) fn http_listeners(&self) -> &[usize] {
        &self.http_listeners
    }

    /// Whether there may be an http listener once what is reported with the listeners is corrected.
    pub(crate) fn may_have_http_listener(&self) -> bool {
        self.listeners.by_name.is_empty() || !self.unclear_listeners.is_empty()
    }
}

impl Index {
    /// Who there is, as far as that fits a line.
    fn all(&self, what: &str) -> String {
        const SHOWN: usize = 5;
        if self.by_name.len() > SHOWN {
            return format!("there are {} others", self.by_name.len());
        }
        let mut names: Vec<&str> = self.by_name.keys().map(String::as_str).collect();
        names.sort_unstable();
        match names.is_empty() {
            true => format!("there is no {what} at all yet"),
            false => format!("there are: {}", names.join(", ")),
        }
    }

    fn of(root: &Node, key: &str, object: &Object, report: &mut Report<'_>) -> Index {
        let mut index = Index::default();
        for (position, item) in items(meant(root, &CONFIG, key)).enumerate() {
            let Some(node) = meant(item, object, "name") else { continue };
            let Some(scalar) = node.as_scalar() else { continue };
            if let Some(first) = index.by_name.get(&scalar.text) {
                let name = quoted(&scalar.text);
                let message = format!("there are two {key} with the name {name}");
                let problem =
                    Problem::error(node.span, message).related(first.span, "the first one");
                report.add(problem.path(format!("{key}[{position}].name")));
                continue;
            }
            let named = Named { index: position, span: node.span };
            index.by_name.insert(scalar.text.clone(), named);
        }
        index
    }

    fn find(&self, node: &Node, what: &str, report: &mut Report<'_>) -> Option<usize> {
        let wanted = name(node, report)?;
        if let Some(named) = self.by_name.get(wanted.as_str()) {
            return Some(named.index);
        }
        let message = format!("there is no {what} with the name `{wanted}`");
        let problem = Problem::error(node.span, message);
        let near = match report.is_full() {
            true => None,
            false => closest(&wanted, self.by_name.keys().map(String::as_str)),
        };
        report.add(match near {
            Some(near) => problem.hint(format!("did you mean {}?", quoted(near))),
            None => problem.hint(self.all(what)),
        });
        None
    }
}

fn items(list: Option<&Node>) -> std::slice::Iter<'_, Node> {
    match list.map(|node| &node.value) {
        Some(Value::List(items)) => items.iter(),
        _ => [].iter(),
    }
}
