//! `ringside explain`: says where a request would go, and why, from a config alone.

use std::io::{self, Write};
use std::net::IpAddr;
use std::path::PathBuf;
use std::process::ExitCode;

use config::Failure;

use crate::check::{Output, colours};
use crate::explain::{Question, explain};
use crate::plan::{ListenerKind, Plan};

/// What is asked for.
#[derive(Debug, Clone, clap::Args)]
pub struct Arguments {
    /// Config files (YAML, TOML or JSON); may repeat.
    #[arg(short, long, value_name = "FILE")]
    config: Vec<PathBuf>,
    method: String,
    /// http://HOST/PATH, or /PATH with a host header; for CONNECT HOST:PORT.
    url: String,
    /// A header of the request, as `NAME: VALUE`; may repeat.
    #[arg(short = 'H', long = "header", value_name = "HEADER")]
    headers: Vec<String>,
    /// Who connects.
    #[arg(long, value_name = "IP")]
    from: Option<IpAddr>,
    /// On which listener; may be left out where there is only one http listener.
    #[arg(long, value_name = "NAME")]
    listener: Option<String>,
    /// Not supported yet.
    #[arg(long, value_name = "SPIFFE_ID", hide = true)]
    peer: Option<String>,
    /// Not supported yet.
    #[arg(long, value_name = "ADDR", hide = true)]
    admin: Option<String>,
    #[arg(short, long, value_enum, default_value = "text")]
    output: Output,
}

/// 0 a route takes it, 1 none does; an error, in words, is a 2.
pub fn command(arguments: &Arguments) -> Result<ExitCode, String> {
    let Arguments { config, method, url, headers, from, listener, peer, admin, output } = arguments;
    for (name, given) in [("--peer", peer), ("--admin", admin)] {
        if given.is_some() {
            return Err(format!("explain {name}: not supported yet; take it out"));
        }
    }
    if config.is_empty() {
        return Err(
            "no config: name a file, as in `ringside explain -c ringside.yaml GET URL`".into()
        );
    }
    let loaded = config::load(config).map_err(|failure| match failure {
        Failure::Invalid(found) => format!("the config is invalid\n{}", found.render(colours())),
        unreadable @ Failure::Unreadable { .. } => unreadable.to_string(),
    })?;
    let headers = headers.iter().map(|header| {
        let (name, value) = header
            .split_once(':')
            .ok_or_else(|| format!("{header:?} is not a header; write -H 'NAME: VALUE'"))?;
        Ok((name.trim().to_owned(), value.trim().to_owned()))
    });
    let headers: Vec<(String, String)> = headers.collect::<Result<_, String>>()?;
    let plan = Plan::compile(&loaded.config, &loaded.hash, 1, None);
    let listener = find_listener(&plan, listener.as_deref())?;
    let question = Question { method, url, headers: &headers, source_ip: *from };
    // No worker runs, so no balancer stands anywhere.
    let explanation = explain(&plan, listener, &question, |_| None)?;
    let mut out = io::stdout().lock();
    let written = match output {
        Output::Text => write!(out, "{explanation}"),
        Output::Json => writeln!(out, "{:#}", explanation.to_json()),
    };
    written.map_err(|error| error.to_string())?;
    Ok(ExitCode::from(u8::from(!explanation.is_taken())))
}

/// The listener of that name, or the only one that has routes.
fn find_listener(plan: &Plan, wanted: Option<&str>) -> Result<usize, String> {
    let http: Vec<usize> = (0..plan.listeners.len())
        .filter(|index| matches!(plan.listeners[*index].kind, ListenerKind::Http(_)))
        .collect();
    let names: Vec<&str> = http.iter().map(|index| &*plan.listeners[*index].name).collect();
    let names = names.join(", ");
    match wanted {
        Some(wanted) => plan
            .listeners
            .iter()
            .position(|listener| *listener.name == *wanted)
            .ok_or_else(|| format!("there is no listener {wanted:?}; there are {names}")),
        None => match http[..] {
            [only] => Ok(only),
            [] => Err("there is no http listener, and so no route".to_owned()),
            _ => Err(format!("there are several http listeners; say --listener, one of {names}")),
        },
    }
}
