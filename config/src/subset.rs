//! Backends that take a part of a service's endpoints, by labels.

use std::collections::{HashMap, HashSet};

use crate::action::Action;
use crate::labels::Labels;
use crate::report::{Problem, Report};
use crate::route::Route;
use crate::service::{Service, Source};
use crate::tree::Node;

/// Each costs a worker a balancer of its own.
const SUBSETS_MAX: usize = 256;
/// Looks at the labels of one endpoint. When they are used up, nothing more is found.
const LOOKS_MAX: usize = 20_000_000;

/// An error where a service is cut into too many parts; a warning where a part can never have an
/// endpoint.
pub(crate) fn check_subsets(
    tree: &Node,
    services: &[Service],
    routes: &[Route],
    report: &mut Report<'_>,
) -> Option<()> {
    let mut subsets: HashMap<usize, HashSet<&Labels>> = HashMap::new();
    let mut looks = 0;
    let mut is_fine = true;
    for (index, (route, item)) in routes.iter().zip(tree.items("routes")).enumerate() {
        let Action::Forward(backends) = &route.action else { continue };
        for (place, backend) in backends.iter().enumerate().filter(|(_, b)| !b.labels.is_empty()) {
            let known = subsets.entry(backend.service).or_default();
            if !known.insert(&backend.labels) {
                continue;
            }
            let labels = item.items("backends").get(place).and_then(|b| b.get("labels"));
            let span = labels.unwrap_or(item).span;
            let service = &services[backend.service];
            let problem = if known.len() > SUBSETS_MAX {
                is_fine = false;
                let name = &service.name;
                let message = format!("routes cut `{name}` into more than {SUBSETS_MAX} parts");
                Problem::error(span, message).hint("make it several services")
            } else if backend.weight > 0 // What is parked gets no requests anyway.
                && let Some(why) = never_has_any(service, &backend.labels, &mut looks)
            {
                Problem::warning(span, why).hint("its requests get 503 no_endpoint")
            } else {
                continue;
            };
            let path = format!("routes[{index}].backends[{place}].labels");
            report.add(problem.path(path));
        }
    }
    is_fine.then_some(())
}

fn never_has_any(service: &Service, labels: &Labels, looks: &mut usize) -> Option<String> {
    let name = &service.name;
    match &service.source {
        Source::Dns(_) => Some(format!("endpoints of `{name}` come by DNS and have no labels")),
        Source::Pushed { .. } => None,
        Source::Endpoints(endpoints) => {
            *looks += endpoints.len();
            let none = *looks <= LOOKS_MAX && !endpoints.iter().any(|e| e.labels.include(labels));
            none.then(|| format!("no endpoint of `{name}` has the labels {labels}"))
        }
    }
}
