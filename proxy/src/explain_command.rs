//! `ringside explain`: says where a request would go, and why, from a config or of what runs.

use std::io::{self, Write};
use std::net::IpAddr;
use std::path::PathBuf;
use std::process::ExitCode;

use config::Failure;
use serde_json::json;

use crate::check::{Output, colours};
use crate::client;
use crate::explain::{Question, explain, find_listener};
use crate::plan::Plan;

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
    /// Ask the running ringside whose admin is there, instead of a config: unix:PATH or IP:PORT.
    #[arg(long, value_name = "ADDR", conflicts_with = "config")]
    admin: Option<config::Address>,
    /// A file that holds the token for that.
    #[arg(long, env = "RINGSIDE_TOKEN_FILE", value_name = "FILE")]
    token_file: Option<PathBuf>,
    #[arg(short, long, value_enum, default_value = "text")]
    output: Output,
}

/// 0 a route takes it, 1 none does; an error, in words, is a 2.
pub fn command(arguments: &Arguments) -> Result<ExitCode, String> {
    let Arguments { config, method, url, headers, from, listener, peer, output, .. } = arguments;
    if peer.is_some() {
        return Err("explain --peer: not supported yet; take it out".to_owned());
    }
    let headers = headers.iter().map(|header| {
        let (name, value) = header
            .split_once(':')
            .ok_or_else(|| format!("{header:?} is not a header; write -H 'NAME: VALUE'"))?;
        Ok((name.trim().to_owned(), value.trim().to_owned()))
    });
    let headers: Vec<(String, String)> = headers.collect::<Result<_, String>>()?;
    // Who names a config does not mean what runs, whatever the environment says.
    let usual = std::env::var("RINGSIDE_ADMIN").ok().filter(|_| config.is_empty());
    let usual = usual.map(|address| address.parse()).transpose();
    let usual = usual.map_err(|error| format!("RINGSIDE_ADMIN: {error}"))?;
    if let Some(admin) = &arguments.admin.clone().or(usual) {
        let question = json!({
            "method": method, "url": url, "headers": headers, "from": from, "listener": listener,
        });
        return client::explain(admin, arguments.token_file.clone(), *output, &question);
    }
    if config.is_empty() {
        return Err(
            "no config: name a file, as in `ringside explain -c ringside.yaml GET URL`, or ask what runs with --admin".into()
        );
    }
    let loaded = config::load(config).map_err(|failure| match failure {
        Failure::Invalid(found) => format!("the config is invalid\n{}", found.render(colours())),
        unreadable @ Failure::Unreadable { .. } => unreadable.to_string(),
    })?;
    let plan = Plan::compile(&loaded.config, &loaded.hash, 1, None);
    let listener = find_listener(&plan, listener.as_deref())?;
    let question = Question { method, url, headers: &headers, source_ip: *from };
    // No worker runs, so no balancer stands anywhere.
    let explanation = explain(&plan, listener, &question)?;
    let mut out = io::stdout().lock();
    let written = match output {
        Output::Text => write!(out, "{explanation}"),
        Output::Json => writeln!(out, "{:#}", explanation.to_json()),
    };
    written.map_err(|error| error.to_string())?;
    Ok(ExitCode::from(u8::from(!explanation.is_taken())))
}
