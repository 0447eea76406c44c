//! `ringside demo`.
use std::process::ExitCode;
pub fn demo(_seconds: Option<u64>) -> std::io::Result<ExitCode> {
    Err(std::io::Error::other("not supported yet"))
}
