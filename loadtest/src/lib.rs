//! `loadtest`: how ringside is measured, and how it is put under strain.
//!
//! A black box over the network: it knows no crate of ours, only addresses. It holds both ends of
//! a measurement (an `origin` that answers, a `generator` that asks), the `floor` programs
//! that a proxy cannot beat, `compare`, which runs ringside and its peers through the same
//! interleaved rounds, `attack`, one hostile load beside healthy clients, and `soak`, ten
//! minutes that must leave memory and descriptors flat.
//!
//! Load goes to loopback only, every process that is started is ended by its id, and readiness is
//! a line read or a connection made, never a sleep. `RESULTS.md` holds what was measured.
//!
//! It is a program ([`run`]) whose parts others may measure with: `benches` starts its own servers
//! as [`contestant`]s and sends them through the same [`round`]s. Children are the running program
//! itself, so a program that uses these parts gives `generate`, `origin` and `tcp-echo` to [`run`].
#![allow(clippy::print_stdout, reason = "a tool that speaks to a terminal")]

mod attack;
mod compare;
pub mod contestant;
mod floor;
mod generator;
mod http;
pub mod memory;
mod origin;
mod peer;
mod plot;
pub mod process;
mod pushes;
pub mod report;
pub mod results;
pub mod round;
mod schedule;
mod soak;
pub mod statistics;
mod stats;
mod syscall;
mod table;
mod tcp_load;
mod tcp_origin;
pub mod usage;
mod window;

use std::ffi::OsString;
use std::process::ExitCode;

use clap::{Parser, Subcommand};

/// Load, origins, floors and comparisons for ringside. Everything stays on loopback.
#[derive(Parser)]
#[command(name = "loadtest", about, disable_help_subcommand = true)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// An HTTP/1.1 origin: /bytes/N, /chunked/N, /slow/MS, /__stats, anything else 100 bytes
    Origin(origin::Arguments),
    /// Sends back what it gets
    TcpEcho(tcp_origin::Arguments),
    /// Takes and throws away
    TcpSink(tcp_origin::Arguments),
    /// Sends without end
    TcpSource(tcp_origin::Arguments),
    /// Load at a constant rate (open loop) or at the maximum (closed loop)
    Generate(generator::Arguments),
    /// What no proxy can beat: the same bytes, nothing read in them
    Floor(floor::Arguments),
    /// ringside, its peers and the floor in the same interleaved rounds
    Compare(compare::Arguments),
    /// One hostile load beside healthy clients
    Attack(attack::Arguments),
    /// Load while the config changes all the time
    Pushes(pushes::Arguments),
    /// Mixed load; fails unless memory and descriptors stay flat
    Soak(soak::Arguments),
}

/// The command line of `loadtest`, the program's name first.
pub fn run(arguments: impl IntoIterator<Item = OsString>) -> ExitCode {
    let outcome = match Arguments::parse_from(arguments).command {
        Command::Origin(arguments) => origin::run(&arguments),
        Command::TcpEcho(arguments) => tcp_origin::run(&arguments, tcp_origin::Role::Echo),
        Command::TcpSink(arguments) => tcp_origin::run(&arguments, tcp_origin::Role::Sink),
        Command::TcpSource(arguments) => tcp_origin::run(&arguments, tcp_origin::Role::Source),
        Command::Generate(arguments) => generator::run(&arguments),
        Command::Floor(arguments) => floor::run(&arguments),
        Command::Compare(arguments) => compare::run(&arguments),
        Command::Attack(arguments) => attack::run(&arguments),
        Command::Pushes(arguments) => pushes::run(&arguments),
        Command::Soak(arguments) => soak::run(&arguments),
    };
    match outcome {
        Ok(code) => code,
        Err(error) => {
            eprintln!("loadtest: {error}");
            ExitCode::FAILURE
        }
    }
}
