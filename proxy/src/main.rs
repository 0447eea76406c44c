//! The `ringside` command.

use std::io::{ErrorKind, Write};
use std::num::NonZeroUsize;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use clap::{CommandFactory, FromArgMatches, Parser, Subcommand};
use ringside::check::{self, Output};
use ringside::say::say;
use ringside::{client, demo, explain_command, manual, run};

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// The data plane of a service mesh: one io_uring event loop per core.
#[derive(Parser)]
#[command(name = "ringside", version, disable_help_subcommand = true)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Run the proxy with a config.
    Run {
        #[command(flatten)]
        files: Files,
        /// Worker threads, instead of what the config says.
        #[arg(long, value_parser = clap::value_parser!(u32).range(1..=i64::from(config::WORKERS_MAX)))]
        workers: Option<u32>,
        /// Which kernel interface to use, instead of what the config says.
        #[arg(long)]
        io: Option<IoArgument>,
        /// Where to serve the admin API, instead of what the config says: unix:PATH or IP:PORT.
        #[arg(long)]
        admin: Option<config::Address>,
        /// Who has the last word on the config.
        #[arg(long, default_value = "file")]
        source: SourceArgument,
        /// Where the last good config is kept, instead of what the config says; `none`: nowhere.
        #[arg(long, value_name = "DIR")]
        state: Option<PathBuf>,
    },
    /// Say whether a config is valid: 0 valid, 1 invalid, 2 could not be read.
    Check {
        #[command(flatten)]
        files: Files,
        #[arg(short, long, value_enum, default_value = "text")]
        output: Output,
        /// Warnings are errors.
        #[arg(long)]
        strict: bool,
        /// Keys, certificates and tokens need not be there.
        #[arg(long)]
        no_files: bool,
    },
    /// Print the JSON Schema of the config.
    Schema,
    /// Say where a request would go, and why: 0 a route takes it, 1 none does, 2 could not be asked.
    Explain(explain_command::Arguments),
    /// Replace the config of a running ringside: 0 live, 1 refused, 2 could not be asked, 3 not yet live everywhere.
    Push {
        #[command(flatten)]
        files: Files,
        #[command(flatten)]
        push: client::Push,
    },
    /// Go back to an earlier config; left out, to the one before.
    Rollback {
        generation: Option<u64>,
        #[command(flatten)]
        admin: client::Admin,
    },
    /// Say what a file would change in what is live: 0 nothing, 1 something, 2 could not be asked.
    Diff {
        #[command(flatten)]
        files: Files,
        #[command(flatten)]
        admin: client::Admin,
    },
    /// Say what runs: 0 ready, 1 not, 2 could not be asked.
    Status(client::Admin),
    /// List the endpoints of a running ringside, or take one out of traffic and put it back.
    Endpoints(client::Endpoints),
    /// Take a running ringside out of traffic: not ready, and connections are sent away as they rest.
    Drain(client::Admin),
    /// Put it back into traffic.
    Undrain(client::Admin),
    /// Wait until a running ringside is ready: 0 it is, 1 not in time.
    Wait {
        /// What to wait for; there is only this.
        #[arg(long, required = true)]
        ready: bool,
        /// How long to wait; a number alone is seconds.
        #[arg(long, default_value = "30s", value_name = "DURATION", value_parser = patience)]
        timeout: Duration,
        #[command(flatten)]
        admin: client::Admin,
    },
    /// Two small services, a sidecar beside each, and traffic between them; needs nothing.
    Demo {
        /// Stop after so many seconds; without it, on ctrl-C.
        #[arg(long, value_parser = clap::value_parser!(u64).range(1..))]
        seconds: Option<u64>,
    },
    /// Print what makes a shell complete ringside's commands and options.
    Completions { shell: clap_complete::Shell },
    /// Print the manual page: `ringside man | man -l -`.
    Man,
}

/// Commands of the interface that are not built. They are known, so that nobody is told that they
/// were misspelt.
const NOT_YET: [&str; 6] = ["certs", "top", "tap", "doctor", "intercept", "upgrade"];

/// Takes any arguments.
fn not_yet(name: &'static str) -> clap::Command {
    let rest =
        clap::Arg::new("rest").num_args(0..).trailing_var_arg(true).allow_hyphen_values(true);
    clap::Command::new(name).hide(true).disable_help_flag(true).arg(rest)
}

#[derive(clap::Args)]
struct Files {
    /// Config files (YAML, TOML or JSON).
    #[arg(value_name = "FILE")]
    positional: Vec<PathBuf>,
    /// The same, as an option; may repeat.
    #[arg(short, long = "config", value_name = "FILE")]
    config: Vec<PathBuf>,
}

impl Files {
    fn all(self) -> Result<Vec<PathBuf>, String> {
        let files = [self.positional, self.config].concat();
        match files.is_empty() {
            true => Err("no config: name a file, as in `ringside run -c ringside.yaml`".to_owned()),
            false => Ok(files),
        }
    }
}

#[derive(Clone, Copy, clap::ValueEnum)]
enum IoArgument {
    Auto,
    #[value(name = "io_uring")]
    IoUring,
    Epoll,
}

#[derive(Clone, Copy, clap::ValueEnum)]
enum SourceArgument {
    /// The files: a push lives until they say something new, or the process restarts.
    File,
    /// Pushes: the files hold what is read at start, and the last push comes back after a restart.
    Push,
}

impl From<IoArgument> for config::Io {
    fn from(argument: IoArgument) -> config::Io {
        match argument {
            IoArgument::Auto => config::Io::Auto,
            IoArgument::IoUring => config::Io::IoUring,
            IoArgument::Epoll => config::Io::Epoll,
        }
    }
}

fn main() -> ExitCode {
    let known = Arguments::command().subcommands(NOT_YET.map(not_yet));
    let matches = known.get_matches();
    if let Some(name) = matches.subcommand_name().filter(|name| NOT_YET.contains(name)) {
        say(format_args!("{name}: not supported yet; `ringside --help` says what there is"));
        return ExitCode::from(2);
    }
    let arguments = Arguments::from_arg_matches(&matches).unwrap_or_else(|error| error.exit());
    match dispatch(arguments.command) {
        Ok(code) => code,
        Err(error) => {
            say(format_args!("{error}"));
            ExitCode::from(2)
        }
    }
}

fn dispatch(command: Command) -> Result<ExitCode, String> {
    match command {
        Command::Run { files, workers, io, admin, source, state } => {
            let workers = workers.and_then(|count| NonZeroUsize::new(count as usize));
            let source = match source {
                SourceArgument::File => control::Source::File,
                SourceArgument::Push => control::Source::Push,
            };
            let io = io.map(Into::into);
            let overrides = run::Overrides { workers, io, admin, source, state };
            run::run(&files.all()?, &overrides).map_err(|error| error.to_string())?;
            Ok(ExitCode::SUCCESS)
        }
        Command::Check { files, output, strict, no_files } => {
            check::check(&files.all()?, !no_files, output, strict)
                .map_err(|error| error.to_string())
        }
        Command::Schema => print(format!("{:#}\n", config::schema()).as_bytes()),
        Command::Explain(arguments) => explain_command::command(&arguments),
        Command::Push { files, push } => client::push(&files.all()?, &push),
        Command::Rollback { generation, admin } => client::rollback(&admin, generation),
        Command::Diff { files, admin } => client::diff(&admin, &files.all()?),
        Command::Status(admin) => client::status(&admin),
        Command::Endpoints(arguments) => client::endpoints(&arguments),
        Command::Drain(admin) => client::set_aside(&admin, "drain"),
        Command::Undrain(admin) => client::set_aside(&admin, "undrain"),
        Command::Wait { ready: _, timeout, admin } => client::wait(&admin, timeout),
        Command::Demo { seconds } => demo::demo(seconds).map_err(|error| error.to_string()),
        Command::Completions { shell } => print(&manual::completions(Arguments::command(), shell)),
        Command::Man => print(&manual::page(Arguments::command())),
    }
}

fn patience(text: &str) -> Result<Duration, String> {
    match text.parse() {
        Ok(seconds) => Ok(Duration::from_secs(seconds)),
        Err(_) => config::parse_time(text),
    }
}

/// To standard output; who reads only the beginning of it (`| head`) is no error.
fn print(text: &[u8]) -> Result<ExitCode, String> {
    match std::io::stdout().write_all(text) {
        Err(error) if error.kind() != ErrorKind::BrokenPipe => Err(format!("stdout: {error}")),
        _ => Ok(ExitCode::SUCCESS),
    }
}
