//! The programs we compare, where they are on this machine, and their configs.
//!
//! Nothing is installed here (`peers/install` does that). The configs are files in `peers/`, so
//! that one can read what a peer was given; what varies between rows is filled in.

use std::fs;
use std::io;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::Command;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Program {
    Nginx,
    Haproxy,
    Envoy,
    Ringside,
}

/// A program that is here.
#[derive(Debug, Clone)]
pub(crate) struct Installed {
    pub(crate) program: Program,
    pub(crate) path: PathBuf,
    pub(crate) version: String,
}

/// How a program is set up; each names a program and the work it does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Setup {
    Nginx,
    /// Buffers that hold a body of 1 MiB.
    NginxBodies,
    NginxUnbuffered,
    NginxTcp,
    Haproxy,
    HaproxySplice,
    HaproxyTcp,
    HaproxyTcpSplice,
    Envoy,
    EnvoyTcp,
    Ringside,
    RingsideEpoll,
    RingsideTcp,
}

impl Setup {
    /// The name in tables.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Setup::Nginx | Setup::NginxBodies | Setup::NginxTcp => "nginx",
            Setup::NginxUnbuffered => "nginx unbuffered",
            Setup::Haproxy | Setup::HaproxyTcp => "haproxy",
            Setup::HaproxySplice | Setup::HaproxyTcpSplice => "haproxy splice",
            Setup::Envoy | Setup::EnvoyTcp => "envoy",
            Setup::Ringside | Setup::RingsideTcp => "ringside",
            Setup::RingsideEpoll => "ringside epoll",
        }
    }

    pub(crate) fn program(self) -> Program {
        match self {
            Setup::Nginx | Setup::NginxBodies | Setup::NginxUnbuffered | Setup::NginxTcp => {
                Program::Nginx
            }
            Setup::Haproxy | Setup::HaproxySplice | Setup::HaproxyTcp | Setup::HaproxyTcpSplice => {
                Program::Haproxy
            }
            Setup::Envoy | Setup::EnvoyTcp => Program::Envoy,
            Setup::Ringside | Setup::RingsideEpoll | Setup::RingsideTcp => Program::Ringside,
        }
    }

    /// The config's text, and what its `@OPTIONS@` stand for.
    fn template(self) -> (&'static str, &'static str) {
        match self {
            Setup::Nginx => (include_str!("../peers/nginx-http.conf"), ""),
            Setup::NginxBodies => (
                include_str!("../peers/nginx-http.conf"),
                "proxy_buffers 16 64k; proxy_busy_buffers_size 128k; proxy_max_temp_file_size 0;",
            ),
            Setup::NginxUnbuffered => {
                (include_str!("../peers/nginx-http.conf"), "proxy_buffering off;")
            }
            Setup::NginxTcp => (include_str!("../peers/nginx-tcp.conf"), NGINX_STREAM_MODULE),
            Setup::Haproxy => (include_str!("../peers/haproxy-http.cfg"), ""),
            Setup::HaproxySplice => (
                include_str!("../peers/haproxy-http.cfg"),
                "option splice-auto\n    option splice-response",
            ),
            Setup::HaproxyTcp => (include_str!("../peers/haproxy-tcp.cfg"), ""),
            Setup::HaproxyTcpSplice => (
                include_str!("../peers/haproxy-tcp.cfg"),
                "option splice-request\n    option splice-response",
            ),
            Setup::Envoy => (include_str!("../peers/envoy-http.yaml"), ""),
            Setup::EnvoyTcp => (include_str!("../peers/envoy-tcp.yaml"), ""),
            Setup::Ringside | Setup::RingsideEpoll => {
                (include_str!("../peers/ringside-http.yaml"), "")
            }
            Setup::RingsideTcp => (include_str!("../peers/ringside-tcp.yaml"), ""),
        }
    }

    fn config(self, listen: SocketAddr, origin: SocketAddr, folder: &Path) -> String {
        let (template, options) = self.template();
        template
            .replace("@LISTEN@", &listen.to_string())
            .replace("@LISTEN_HOST@", &listen.ip().to_string())
            .replace("@LISTEN_PORT@", &listen.port().to_string())
            .replace("@ORIGIN@", &origin.to_string())
            .replace("@ORIGIN_HOST@", &origin.ip().to_string())
            .replace("@ORIGIN_PORT@", &origin.port().to_string())
            .replace("@FOLDER@", &folder.display().to_string())
            .replace("@OPTIONS@", options)
    }
}

const NGINX_STREAM_MODULE: &str = "/usr/lib/nginx/modules/ngx_stream_module.so";

/// Everything that is on this machine.
pub(crate) fn find(ringside: Option<&Path>) -> Vec<Installed> {
    [Program::Nginx, Program::Haproxy, Program::Envoy, Program::Ringside]
        .into_iter()
        .filter_map(|program| {
            let path = match program {
                Program::Nginx => on_path("nginx"),
                Program::Haproxy => on_path("haproxy"),
                Program::Envoy => envoy(),
                Program::Ringside => ringside.map(Path::to_owned).or_else(beside_us),
            }?;
            let version = version(program, &path)?;
            Some(Installed { program, path, version })
        })
        .collect()
}

/// Fails, with what to do, where ringside is not among them: a table without us is no result.
pub(crate) fn require_ringside(installed: &[Installed]) -> io::Result<()> {
    match installed.iter().any(|installed| installed.program == Program::Ringside) {
        true => Ok(()),
        false => Err(io::Error::new(
            io::ErrorKind::NotFound,
            "no ringside beside this program: `cargo build --release` makes it, or give --ringside PATH",
        )),
    }
}

fn on_path(name: &str) -> Option<PathBuf> {
    let path = std::env::var("PATH").unwrap_or_default();
    // Debian keeps daemons where a user's PATH does not look.
    let folders = path.split(':').chain(["/usr/sbin", "/usr/local/sbin"]);
    folders.map(|folder| Path::new(folder).join(name)).find(|path| path.is_file())
}

fn envoy() -> Option<PathBuf> {
    let given = std::env::var_os("ENVOY").map(PathBuf::from);
    let venv = PathBuf::from("/opt/envoy-venv/bin/envoy");
    given.or_else(|| on_path("envoy")).or_else(|| venv.is_file().then_some(venv))
}

/// `ringside` in the folder of this program: both are built into `target/release`.
fn beside_us() -> Option<PathBuf> {
    let path = std::env::current_exe().ok()?.with_file_name("ringside");
    path.is_file().then_some(path)
}

fn version(program: Program, path: &Path) -> Option<String> {
    let argument = match program {
        Program::Nginx | Program::Haproxy => "-v",
        Program::Envoy | Program::Ringside => "--version",
    };
    let output = Command::new(path).arg(argument).output().ok()?;
    let text = [output.stdout, output.stderr].concat();
    let text = String::from_utf8_lossy(&text);
    let line = text.lines().find(|line| !line.trim().is_empty()).unwrap_or_default();
    Some(line.trim().replace(&format!("{}  version: ", path.display()), "envoy "))
}

impl Installed {
    /// Whether this machine can run a setup (nginx's TCP module is a package of its own).
    pub(crate) fn can(&self, setup: Setup) -> bool {
        setup.program() == self.program
            && (setup != Setup::NginxTcp || Path::new(NGINX_STREAM_MODULE).is_file())
    }

    /// Writes the config into a folder of its own and says how to start the program with it.
    pub(crate) fn command(
        &self,
        setup: Setup,
        listen: SocketAddr,
        origin: SocketAddr,
        folder: &Path,
    ) -> io::Result<Command> {
        fs::create_dir_all(folder)?;
        let extension = match self.program {
            Program::Nginx => "conf",
            Program::Haproxy => "cfg",
            Program::Envoy | Program::Ringside => "yaml",
        };
        let file = folder.join(format!("config.{extension}"));
        fs::write(&file, setup.config(listen, origin, folder))?;
        let mut command = Command::new(&self.path);
        match self.program {
            Program::Nginx => command.arg("-p").arg(folder).arg("-c").arg(&file),
            Program::Haproxy => command.arg("-db").arg("-f").arg(&file),
            Program::Envoy => command
                .args(["--concurrency", "1", "--disable-hot-restart", "--log-level", "warn", "-c"])
                .arg(&file),
            Program::Ringside => command.args(["run", "--workers", "1", "-c"]).arg(&file),
        };
        if setup == Setup::RingsideEpoll {
            command.args(["--io", "epoll"]);
        }
        Ok(command)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_placeholder_is_filled() {
        let address = "127.0.0.1:81".parse().unwrap();
        let setups = [
            Setup::Nginx,
            Setup::NginxBodies,
            Setup::NginxUnbuffered,
            Setup::NginxTcp,
            Setup::Haproxy,
            Setup::HaproxySplice,
            Setup::HaproxyTcp,
            Setup::HaproxyTcpSplice,
            Setup::Envoy,
            Setup::EnvoyTcp,
            Setup::Ringside,
            Setup::RingsideEpoll,
            Setup::RingsideTcp,
        ];
        for setup in setups {
            let config = setup.config(address, address, Path::new("/tmp/x"));
            let code = config.lines().filter(|line| !line.trim_start().starts_with('#'));
            let left = code.filter(|line| line.contains("@") && !line.contains("\"@type\""));
            assert_eq!(left.count(), 0, "{setup:?}: {config}");
        }
    }
}
