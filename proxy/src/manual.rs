//! The manual page and the shells' completions, both made from the tables that the command line is
//! read by.

use std::io;

use clap::Command;
use clap_complete::Shell;
use clap_mangen::Man;
use clap_mangen::roff::{Roff, bold, roman};

/// A script that makes `shell` complete the commands and options.
pub fn completions(mut command: Command, shell: Shell) -> Vec<u8> {
    let mut script = Vec::new();
    clap_complete::generate(shell, &mut command, "ringside", &mut script);
    script
}

/// The whole manual page in roff: all commands, each with its options.
pub fn page(mut command: Command) -> Vec<u8> {
    command.build();
    let commands: Vec<Command> = command.get_subcommands().cloned().collect();
    let mut page = Vec::new();
    write(command, commands, &mut page).expect("a vector takes all that is written");
    page
}

fn write(command: Command, commands: Vec<Command>, page: &mut Vec<u8>) -> io::Result<()> {
    let about = Man::new(command);
    about.render_title(page)?;
    part(page, |text| {
        about.render_name_section(text)?;
        about.render_synopsis_section(text)?;
        heading("SH", "COMMANDS").to_writer(text)
    })?;
    for command in commands {
        let name = command.get_bin_name().unwrap_or(command.get_name()).to_owned();
        let command = Man::new(command);
        part(page, |text| heading("SS", &name).to_writer(text))?;
        let begin = page.len();
        part(page, |text| {
            command.render_synopsis_section(text)?;
            command.render_description_section(text)?;
            command.render_options_section(text)
        })?;
        // The headings that stand above these parts on a page of their own.
        let text = String::from_utf8_lossy(&page.split_off(begin)).into_owned();
        for line in text.lines() {
            let line = if line.starts_with(".SH") { ".PP" } else { line };
            page.extend(line.bytes().chain([b'\n']));
        }
    }
    part(page, |text| rest().to_writer(text))
}

/// Adds what `render` writes, without the definitions that every piece of roff begins with: the
/// title's hold for the whole page.
fn part(page: &mut Vec<u8>, render: impl FnOnce(&mut Vec<u8>) -> io::Result<()>) -> io::Result<()> {
    let mut text = Vec::new();
    render(&mut text)?;
    for line in text.split_inclusive(|byte| *byte == b'\n') {
        if !line.starts_with(b".ie ") && !line.starts_with(b".el ") {
            page.extend(line);
        }
    }
    Ok(())
}

fn heading(kind: &str, name: &str) -> Roff {
    let mut roff = Roff::new();
    roff.control(kind, [name]);
    roff
}

/// What no table of the command line knows.
fn rest() -> Roff {
    let mut roff = Roff::new();
    roff.control("SH", ["EXIT STATUS"]);
    for (status, meaning) in [
        ("0", "Done; of check: valid."),
        ("1", "Of check: invalid."),
        (
            "2",
            "It could not be done, and standard error says why: a wrong argument, a file that cannot be read, an address that is taken.",
        ),
    ] {
        roff.control("TP", []).text([bold(status)]).text([roman(meaning)]);
    }
    roff.control("SH", ["SIGNALS"]);
    for (signal, meaning) in [
        ("SIGTERM, SIGINT", "Drain and end; once more: close at once what is still open."),
        ("SIGUSR1", "Open the access log again."),
        ("SIGHUP", "Read the config files again, and make live what is new in them."),
    ] {
        roff.control("TP", []).text([bold(signal)]).text([roman(meaning)]);
    }
    roff.control("SH", ["ENVIRONMENT"]);
    for (name, meaning) in [
        ("NO_COLOR", "Errors of a config are shown without colours."),
        (
            "NOTIFY_SOCKET",
            "Where a service manager is told what state run is in; see sd_notify(3).",
        ),
    ] {
        roff.control("TP", []).text([bold(name)]).text([roman(meaning)]);
    }
    roff.control("SH", ["SEE ALSO"]);
    roff.text([roman("docs/config.md in the source: every key of the config.")]);
    roff
}
