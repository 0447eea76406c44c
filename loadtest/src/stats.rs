//! What the origin has executed.

use std::collections::HashMap;

use crate::http::{Method, Request};

/// Ids beyond so many are counted as requests only, so that the table has a bound.
const IDS_MAX: usize = 4_000_000;

#[derive(Default)]
pub(crate) struct Stats {
    pub(crate) connections: u64,
    pub(crate) malformed: u64,
    requests: u64,
    posts: u64,
    executions: HashMap<Box<[u8]>, u32>,
    duplicates: u64,
    duplicate_posts: u64,
}

impl Stats {
    /// One request has come whole and is answered.
    pub(crate) fn count(&mut self, request: &Request) {
        let is_post = request.method == Method::Post;
        self.requests += 1;
        self.posts += u64::from(is_post);
        let Some(id) = &request.test_id else { return };
        if let Some(times) = self.executions.get_mut(id) {
            *times += 1;
            self.duplicates += 1;
            self.duplicate_posts += u64::from(is_post);
        } else if self.executions.len() < IDS_MAX {
            self.executions.insert(id.clone(), 1);
        }
    }

    /// `duplicates` are executions beyond the first of the same `x-test-id`.
    pub(crate) fn to_json(&self) -> String {
        let Stats { connections, malformed, requests, posts, duplicates, duplicate_posts, .. } =
            self;
        let distinct = self.executions.len();
        serde_json::json!({
            "requests": requests,
            "posts": posts,
            "gets": requests - posts,
            "connections": connections,
            "malformed": malformed,
            "distinct_ids": distinct,
            "duplicates": duplicates,
            "duplicate_posts": duplicate_posts,
        })
        .to_string()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::http::Action;

    #[test]
    fn a_second_execution_is_a_duplicate() {
        let mut stats = Stats::default();
        let request = |method, id: &str| Request {
            method,
            action: Action::Bytes(1),
            close: false,
            test_id: Some(id.as_bytes().into()),
        };
        for (method, id) in
            [(Method::Get, "a"), (Method::Post, "b"), (Method::Get, "a"), (Method::Post, "b")]
        {
            stats.count(&request(method, id));
        }
        assert_eq!((stats.requests, stats.posts), (4, 2));
        assert_eq!((stats.duplicates, stats.duplicate_posts), (2, 1));
    }
}
