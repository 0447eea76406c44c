//! Numbers for the names of listeners, routes and services.
//!
//! Counters outlive plans: a push must not reset the counters of a route that it did not touch, nor
//! mix them with another's. So a name keeps its number for the life of the process, and numbers
//! are not used again. The table grows with the names ever configured, not with traffic; its owner
//! is whoever compiles plans.

use std::sync::Arc;

use hashbrown::HashMap;

/// A listener's number.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct ListenerId(u32);

/// A route's number.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct RouteId(u32);

/// A service's number.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct ServiceId(u32);

impl ListenerId {
    pub(crate) fn index(self) -> usize {
        self.0 as usize
    }
}

impl RouteId {
    pub(crate) fn index(self) -> usize {
        self.0 as usize
    }
}

impl ServiceId {
    pub(crate) fn index(self) -> usize {
        self.0 as usize
    }
}

/// The names that have numbers.
#[derive(Clone, Debug, Default)]
pub struct Names {
    listeners: Table,
    routes: Table,
    services: Table,
}

#[derive(Clone, Debug, Default)]
struct Table {
    /// The inverse of `names`.
    numbers: HashMap<Arc<str>, u32>,
    names: Vec<Arc<str>>,
}

impl Table {
    fn number(&mut self, name: &str) -> u32 {
        if let Some(number) = self.numbers.get(name) {
            return *number;
        }
        let number = u32::try_from(self.names.len()).expect("fewer than 2^32 names");
        let name: Arc<str> = name.into();
        self.numbers.insert(name.clone(), number);
        self.names.push(name);
        number
    }

    /// Empty for a number from another table, which would be a bug but is no reason to stop.
    fn name(&self, number: usize) -> &str {
        debug_assert!(number < self.names.len());
        self.names.get(number).map_or("", |name| name)
    }
}

impl Names {
    /// The number of the listener called `name`, new if the name is.
    pub fn listener(&mut self, name: &str) -> ListenerId {
        ListenerId(self.listeners.number(name))
    }

    /// The number of the route called `name`, new if the name is.
    pub fn route(&mut self, name: &str) -> RouteId {
        RouteId(self.routes.number(name))
    }

    /// The number of the service called `name`, new if the name is.
    pub fn service(&mut self, name: &str) -> ServiceId {
        ServiceId(self.services.number(name))
    }

    pub fn listener_name(&self, id: ListenerId) -> &str {
        self.listeners.name(id.index())
    }

    pub fn route_name(&self, id: RouteId) -> &str {
        self.routes.name(id.0 as usize)
    }

    pub fn service_name(&self, id: ServiceId) -> &str {
        self.services.name(id.index())
    }

    /// All listeners, in the order of their numbers.
    pub(crate) fn listeners(&self) -> impl ExactSizeIterator<Item = &str> {
        self.listeners.names.iter().map(|name| &**name)
    }

    /// All services, in the order of their numbers.
    pub(crate) fn services(&self) -> impl ExactSizeIterator<Item = &str> {
        self.services.names.iter().map(|name| &**name)
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
        assert_eq!(names.listener("web").index(), 0, "each kind counts for itself");
    }
}
