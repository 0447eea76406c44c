//! Numbers for the names of listeners, routes and services.
//!
//! Counters outlive plans: a push must not reset the counters of a route that it did not touch, nor
//! mix them with another's. So a name keeps its number, and no number is used again. What has gone
//! from the config is counted on for those who look in a while, and forgotten when many went after it:
//! memory is set by the config, not by how often it changed. The table's owner is
//! whoever compiles plans.

use std::collections::BTreeMap;
use std::sync::Arc;

use hashbrown::HashMap;

/// A listener's number.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ListenerId(u32);

/// A route's number.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RouteId(u32);

/// A service's number.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ServiceId(u32);

/// So many names of each kind are known that the config no longer has.
const GONE_MAX: usize = 256;

/// The names that have numbers.
#[derive(Clone, Debug, Default)]
pub struct Names {
    listeners: Table,
    routes: Table,
    services: Table,
    /// Counts the configs.
    turn: u64,
}

#[derive(Clone, Debug, Default)]
struct Table {
    /// The inverse of `names`.
    numbers: HashMap<Arc<str>, u32>,
    names: BTreeMap<u32, Known>,
    /// Numbers given out so far.
    given: u32,
}

#[derive(Clone, Debug)]
struct Known {
    name: Arc<str>,
    /// The newest config that has it.
    turn: u64,
}

impl Table {
    fn number(&mut self, name: &str, turn: u64) -> u32 {
        if let Some(number) = self.numbers.get(name) {
            if let Some(known) = self.names.get_mut(number) {
                known.turn = turn;
            }
            return *number;
        }
        let number = self.given;
        self.given = number.checked_add(1).expect("fewer than 2^32 names");
        let name: Arc<str> = name.into();
        self.numbers.insert(name.clone(), number);
        self.names.insert(number, Known { name, turn });
        number
    }

    /// Empty for a name that is forgotten.
    fn name(&self, number: u32) -> &str {
        self.names.get(&number).map_or("", |known| &known.name)
    }

    /// Forgets those that went first, but for the last [`GONE_MAX`].
    fn forget(&mut self, turn: u64) {
        let gone = self.names.iter().filter(|(_, known)| known.turn < turn);
        let mut gone: Vec<(u64, u32)> = gone.map(|(number, known)| (known.turn, *number)).collect();
        let Some(surplus) = gone.len().checked_sub(GONE_MAX) else { return };
        gone.sort_unstable();
        for (_, number) in &gone[..surplus] {
            if let Some(known) = self.names.remove(number) {
                self.numbers.remove(&known.name);
            }
        }
    }

    fn forgotten(&self) -> usize {
        self.given as usize - self.names.len()
    }
}

impl Names {
    /// The names of the next config begin with those known; [`Names::settle`] follows them.
    pub fn next(&self) -> Names {
        Names { turn: self.turn + 1, ..self.clone() }
    }

    /// All names of the config have been asked for.
    pub fn settle(&mut self) {
        for table in [&mut self.listeners, &mut self.routes, &mut self.services] {
            table.forget(self.turn);
        }
    }

    /// How many have been forgotten so far.
    pub fn forgotten(&self) -> usize {
        [&self.listeners, &self.routes, &self.services].into_iter().map(Table::forgotten).sum()
    }

    /// The number of the listener called `name`, new if the name is.
    pub fn listener(&mut self, name: &str) -> ListenerId {
        ListenerId(self.listeners.number(name, self.turn))
    }

    /// A new number for another listener of a name that there is: what has the old one is forgotten.
    pub fn other_listener(&mut self, name: &str) -> ListenerId {
        if let Some(number) = self.listeners.numbers.remove(name) {
            self.listeners.names.remove(&number);
        }
        self.listener(name)
    }

    /// The number of the route called `name`, new if the name is.
    pub fn route(&mut self, name: &str) -> RouteId {
        RouteId(self.routes.number(name, self.turn))
    }

    /// The number of the service called `name`, new if the name is.
    pub fn service(&mut self, name: &str) -> ServiceId {
        ServiceId(self.services.number(name, self.turn))
    }

    /// Empty where it is forgotten, as of the others.
    pub fn listener_name(&self, id: ListenerId) -> &str {
        self.listeners.name(id.0)
    }

    pub fn route_name(&self, id: RouteId) -> &str {
        self.routes.name(id.0)
    }

    pub fn service_name(&self, id: ServiceId) -> &str {
        self.services.name(id.0)
    }

    /// All listeners, in the order of their numbers.
    pub(crate) fn listeners(&self) -> impl Iterator<Item = (ListenerId, &str)> {
        self.listeners.names.iter().map(|(number, known)| (ListenerId(*number), &*known.name))
    }

    /// All services, in the order of their numbers.
    pub(crate) fn services(&self) -> impl Iterator<Item = (ServiceId, &str)> {
        self.services.names.iter().map(|(number, known)| (ServiceId(*number), &*known.name))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_keeps_its_number() {
        let mut names = Names::default();
        let web = names.route("web");
        let api = names.route("api");
        assert_ne!(web, api);
        assert_eq!(names.route("web"), web);
        assert_eq!(names.route_name(api), "api");
        assert_eq!(names.listener("web"), ListenerId(0), "each kind counts for itself");
    }

    #[test]
    fn what_went_first_is_forgotten_first() {
        let mut names = Names::default();
        let (stays, comes_back) = (names.route("stays"), names.route("comes back"));
        let mut numbers = vec![];
        for turn in 0..GONE_MAX + 10 {
            names = names.next();
            assert_eq!(names.route("stays"), stays);
            numbers.push(names.route(&turn.to_string()));
            if turn % 100 == 50 {
                assert_eq!(names.route("comes back"), comes_back, "not long gone");
            }
            names.settle();
        }
        // The last is there, and so many before it are gone.
        let known = |id: &RouteId| !names.route_name(*id).is_empty();
        assert_eq!(numbers.iter().filter(|id| known(id)).count(), GONE_MAX);
        assert!(!known(&numbers[0]) && known(&numbers[numbers.len() - GONE_MAX]));
        assert_eq!(names.route_name(comes_back), "comes back");
        assert_eq!(names.forgotten(), 10);
        assert_ne!(names.route("0"), numbers[0], "no number is used again");
    }
}
