//! Whoever connected to us.

pub mod connection;
pub mod tcp;
