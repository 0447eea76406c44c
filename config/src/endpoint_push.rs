//! Endpoints that are pushed to a service: the body of `PUT` and `PATCH /v1/services/NAME/endpoints`.

use crate::address::{Address, endpoint_address};
use crate::definition::{Key, Kind, Object};
use crate::diagnostic::Diagnostics;
use crate::document::Document;
use crate::load::Format;
use crate::reader::list;
use crate::report::{Problem, Report};
use crate::service::{ENDPOINT, Endpoint, endpoint_list};
use crate::tree::{Node, Value};
use crate::units::number;

/// A new set of endpoints, or what changes in the one that is there.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EndpointPush {
    /// Grows with each push of whoever pushes.
    pub version: u64,
    pub change: EndpointChange,
}

/// What a push does.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum EndpointChange {
    /// These and no others; may be none.
    Replace(Vec<Endpoint>),
    /// Those that are new or other than they were, and those that are gone.
    Edit { upsert: Vec<Endpoint>, remove: Vec<Address> },
}

const VERSION: Key = Key::required("version", Kind::Number, "Higher than that of the push before.");

const REPLACEMENT: Object = Object {
    name: "a set of endpoints",
    about: "All endpoints of a service.",
    one_of: &[],
    keys: &[
        VERSION,
        Key::required("endpoints", Kind::List(&Kind::Object(&ENDPOINT)), "All of them."),
    ],
};

const EDIT: Object = Object {
    name: "a change of endpoints",
    about: "What is new and what is gone among the endpoints of a service.",
    one_of: &[],
    keys: &[
        VERSION,
        Key::default("upsert", Kind::List(&Kind::Object(&ENDPOINT)), "[]", "New, or changed."),
        Key::default("remove", Kind::List(&Kind::Address), "[]", "Addresses that are gone."),
    ],
};

const SEVERAL: Object = Object {
    name: "endpoints of several services",
    about: "All endpoints of each service that is named.",
    one_of: &[],
    keys: &[Key::required("services", Kind::Text, "A map: service to its set.")],
};

impl EndpointPush {
    /// `{version, endpoints}`.
    pub fn replacement(source: &str, text: &[u8]) -> Result<EndpointPush, Diagnostics> {
        read(source, text, replacement)
    }

    /// `{version, upsert, remove}`.
    pub fn edit(source: &str, text: &[u8]) -> Result<EndpointPush, Diagnostics> {
        read(source, text, |node, report| {
            let mut fields = report.fields(node, &EDIT)?;
            let version = fields.get("version", version);
            let upsert = fields.get("upsert", endpoint_list);
            let remove = fields.get("remove", |node, report| list(node, report, endpoint_address));
            let (upsert, remove) = (upsert?, remove?);
            if let Some(both) = upsert.iter().find(|new| remove.contains(&new.address)) {
                let message = format!("{} is to be there and to be gone", both.address);
                let at = node.get("remove").unwrap_or(node).span;
                fields.report.add(Problem::error(at, message).hint("take it out of one of them"));
                return None;
            }
            let change = EndpointChange::Edit { upsert, remove };
            Some(EndpointPush { version: version?, change })
        })
    }

    /// `{services: {NAME: {version, endpoints}}}`.
    pub fn several(source: &str, text: &[u8]) -> Result<Vec<(String, EndpointPush)>, Diagnostics> {
        read(source, text, |node, report| {
            let mut fields = report.fields(node, &SEVERAL)?;
            fields.get("services", |node, report| {
                let sets = report.entries(node, "a map of services")?;
                let sets = sets.iter().map(|entry| {
                    let set = replacement(&entry.value, report);
                    set.map(|set| (entry.key.clone(), set))
                });
                // All are read before it gives up.
                sets.collect::<Vec<_>>().into_iter().collect()
            })
        })
    }
}

fn replacement(node: &Node, report: &mut Report<'_>) -> Option<EndpointPush> {
    let mut fields = report.fields(node, &REPLACEMENT)?;
    let version = fields.get("version", version);
    let endpoints = fields.get("endpoints", |node, report| match node.value {
        Value::Null => {
            let problem = Problem::error(node.span, "this is a list, not nothing");
            report.add(problem.hint("write `[]` where there is to be no endpoint"));
            None
        }
        _ => endpoint_list(node, report),
    });
    let change = EndpointChange::Replace(endpoints?);
    Some(EndpointPush { version: version?, change })
}

fn version(node: &Node, report: &mut Report<'_>) -> Option<u64> {
    number(node, report, 0, u64::MAX)
}

fn read<T>(
    source: &str,
    text: &[u8],
    read: impl FnOnce(&Node, &mut Report<'_>) -> Option<T>,
) -> Result<T, Diagnostics> {
    let document = Document::parse(source, text, Format::Json)?;
    document.read(read)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_wrong_is_told_at_its_place() {
        let said = |result: Result<_, Diagnostics>| result.map(drop).unwrap_err().to_string();
        let replace = |text: &str| EndpointPush::replacement("body", text.as_bytes());
        let push = replace(r#"{"version": 3, "endpoints": [{"address": "10.0.0.1:80"}]}"#).unwrap();
        assert_eq!(push.version, 3);
        assert!(matches!(push.change, EndpointChange::Replace(set) if set.len() == 1));
        for (text, says) in [
            (r#"{"endpoints": []}"#, "needs the key `version`"),
            (r#"{"version": "3", "endpoints": []}"#, "without quotes"),
            (r#"{"version": -1, "endpoints": []}"#, "a whole number"),
            (r#"{"version": 1, "endpoints": [{}]}"#, "needs the key `address`"),
            (r#"{"version": 1, "endpoints": [], "upsert": []}"#, "unknown key `upsert`"),
            (
                r#"{"version": 1, "endpoints": [{"address": "1.2.3.4:5"}, {"address": "1.2.3.4:5"}]}"#,
                "twice",
            ),
        ] {
            let said = said(replace(text));
            assert!(said.contains(says) && said.contains("body:1:"), "{text}: {said}");
        }
        let edit = |text: &str| EndpointPush::edit("body", text.as_bytes());
        assert!(edit(r#"{"version": 1, "remove": ["1.2.3.4:5", "unix:/x"]}"#).is_ok());
        assert!(said(edit(r#"{"version": 1, "remove": ["nowhere"]}"#)).contains("`nowhere`"));
        let several = |text: &str| EndpointPush::several("body", text.as_bytes());
        let text =
            r#"{"services": {"a": {"version": 1, "endpoints": []}, "b": {"endpoints": []}}}"#;
        assert!(
            said(several(text).map(|mut sets| sets.remove(0).1))
                .contains("needs the key `version`")
        );
        assert_eq!(
            several(r#"{"services": {"a": {"version": 1, "endpoints": []}}}"#).unwrap().len(),
            1
        );
    }
}
