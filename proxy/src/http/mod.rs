//! What HTTP/1 and HTTP/2 have in common: methods, versions, targets, hosts, statuses. Pure.

pub mod host;
pub mod method;
pub mod path;
pub mod status;
pub mod target;
pub mod version;

pub use method::Method;
pub use target::{Form, Target};
pub use version::Version;
