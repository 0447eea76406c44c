//! What HTTP/1 and HTTP/2 have in common: methods, versions, targets, hosts, statuses,
//! queries, cookies. Pure.

pub mod cookie;
pub mod date;
pub mod host;
pub mod location;
pub mod method;
pub mod query;
pub mod rewrite;
pub mod status;
pub mod target;
pub mod version;

pub use method::Method;
pub use target::{Form, Target};
pub use version::Version;
