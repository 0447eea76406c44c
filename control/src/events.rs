//! What happens to this process, for those who listen to `GET /v1/events`.
//!
//! The newest events are kept with their numbers, and each listener reads on from the last one that it
//! has: so one that was away, or is slow, misses nothing that is still there, and is told how much is
//! not.

use std::collections::VecDeque;
use std::sync::{Mutex, MutexGuard, PoisonError};

use serde_json::{Value as Json, json};
use tokio::sync::watch;

/// So many are kept.
const RECENT_MAX: usize = 256;

/// The newest events.
pub(crate) struct Events {
    recent: Mutex<VecDeque<Event>>,
    /// The number of the newest one; 0 before the first.
    newest: watch::Sender<u64>,
}

/// Something that happened.
struct Event {
    number: u64,
    /// As server-sent events write it (the WHATWG's HTML, 9.2.6).
    text: String,
}

impl Event {
    /// `data` has no line end: JSON has none outside of indentation.
    fn new(number: u64, kind: &str, data: &Json) -> Event {
        Event { number, text: format!("id: {number}\nevent: {kind}\ndata: {data}\n\n") }
    }
}

impl Default for Events {
    fn default() -> Events {
        Events { recent: Mutex::default(), newest: watch::channel(0).0 }
    }
}

impl Events {
    /// Tells those who listen. `kind` is a word of the REST interface.
    pub(crate) fn tell(&self, kind: &str, data: &Json) {
        let mut recent = self.recent();
        let number = *self.newest.borrow() + 1;
        recent.push_back(Event::new(number, kind, data));
        while recent.len() > RECENT_MAX {
            recent.pop_front();
        }
        drop(recent);
        self.newest.send_replace(number);
    }

    /// What comes after the event `last`, which is one of another process if it is none of ours;
    /// `None`: after all there are.
    pub(crate) fn listen(&self, last: Option<u64>) -> Listener {
        let newest = self.newest.subscribe();
        let known = *newest.borrow();
        let last = match last {
            None => known,
            Some(last) if last > known => 0,
            Some(last) => last,
        };
        Listener { newest, last }
    }

    fn recent(&self) -> MutexGuard<'_, VecDeque<Event>> {
        self.recent.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Somebody who listens.
pub(crate) struct Listener {
    newest: watch::Receiver<u64>,
    /// The number of the last event that it has.
    last: u64,
}

impl Listener {
    /// The events that it does not have, once there are any.
    pub(crate) async fn next(&mut self, events: &Events) -> String {
        let last = self.last;
        // The sender is in `events`.
        let _ = self.newest.wait_for(|newest| *newest > last).await;
        let recent = events.recent();
        let oldest = recent.front().map_or(0, |event| event.number);
        let lost = oldest.saturating_sub(last + 1);
        let mut text = String::new();
        if lost > 0 {
            text.push_str(&Event::new(oldest - 1, "lost", &json!({ "events": lost })).text);
        }
        for event in recent.iter().filter(|event| event.number > last) {
            text.push_str(&event.text);
            self.last = event.number;
        }
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tell(events: &Events, numbers: std::ops::RangeInclusive<u64>) {
        numbers.for_each(|number| events.tell("a", &json!(number)));
    }

    #[tokio::test]
    async fn each_listener_reads_on_from_where_it_was() {
        let events = Events::default();
        tell(&events, 1..=2);
        let mut new = events.listen(None);
        let mut back = events.listen(Some(1));
        let mut from_before = events.listen(Some(900));
        tell(&events, 3..=3);
        assert_eq!(new.next(&events).await, "id: 3\nevent: a\ndata: 3\n\n");
        let two = "id: 2\nevent: a\ndata: 2\n\nid: 3\nevent: a\ndata: 3\n\n";
        assert_eq!(back.next(&events).await, two);
        assert!(from_before.next(&events).await.starts_with("id: 1\n"));
    }

    #[tokio::test]
    async fn who_is_too_slow_is_told_how_much_is_lost() {
        let events = Events::default();
        let mut slow = events.listen(None);
        tell(&events, 1..=RECENT_MAX as u64 + 3);
        let text = slow.next(&events).await;
        assert!(text.starts_with("id: 3\nevent: lost\ndata: {\"events\":3}\n\nid: 4\n"), "{text}");
        assert_eq!(text.matches("event: a\n").count(), RECENT_MAX);
    }
}
