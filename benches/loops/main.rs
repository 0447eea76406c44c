//! `loops`: the same echo server and the same minimal HTTP proxy on our reactor, on monoio and on
//! glommio, and what each costs. So the choice of a loop of our own stays a measured one.
//!
//! [`protocol`] is what they serve, once for all; `on_*.rs` is one loop each; [`serve`] runs one of
//! them; [`compare`] starts all as children and sends them through the interleaved rounds of
//! `loadtest`, whose load and origin this program also runs.
//!
//! The allocator is the system's: ringside's own asks for huge pages, and 4,000 idle connections are
//! but a few steps of 2 MiB.
#![allow(clippy::print_stdout, reason = "a tool that speaks to a terminal")]
#![forbid(unsafe_code)]

mod compare;
mod on_glommio;
mod on_monoio;
mod on_reactor;
mod protocol;
mod serve;

use std::ffi::OsString;
use std::process::ExitCode;

use clap::{Parser, Subcommand};

/// The same servers on several event loops, and what each costs.
#[derive(Parser)]
#[command(name = "loops", about, disable_help_subcommand = true)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// One server, until it is ended
    Serve(serve::Arguments),
    /// All of them in the same interleaved rounds: CPU per request, memory per idle connection
    Compare(compare::Arguments),
    /// `generate`, `origin` and `tcp-echo` are loadtest's
    #[command(external_subcommand)]
    Loadtest(Vec<OsString>),
}

fn main() -> ExitCode {
    let outcome = match Arguments::parse().command {
        Command::Serve(arguments) => serve::run(&arguments),
        Command::Compare(arguments) => compare::run(&arguments),
        Command::Loadtest(arguments) => {
            return loadtest::run(std::iter::once("loadtest".into()).chain(arguments));
        }
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("loops: {error}");
            ExitCode::FAILURE
        }
    }
}
