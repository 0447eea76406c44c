//! `deploy/` as the programs see it that will read it. A missing one fails: `loadtest/peers/install`
//! gets them.

mod support;

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use serde_json::Value;
use support::{Origin, Proxy, config, echo_origin, pattern};

/// Where `loadtest/peers/install` puts what comes from PyPI.
const TOOLS: &str = "/opt/deploy-venv/bin";

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap().to_owned()
}

/// What it printed, and said; panics unless it succeeded.
fn run(command: &mut Command) -> (String, String) {
    let output = command.current_dir(root()).output();
    let Output { status, stdout, stderr } =
        output.unwrap_or_else(|error| panic!("{command:?}: {error}; run loadtest/peers/install"));
    let [out, said] = [stdout, stderr].map(|bytes| String::from_utf8(bytes).unwrap());
    assert!(status.success(), "{command:?}: {status}\n{out}{said}");
    (out, said)
}

fn tool(name: &str) -> Command {
    Command::new(Path::new(TOOLS).join(name))
}

/// A file of this test's own, removed when dropped.
struct Scratch(PathBuf);

impl Scratch {
    fn new(name: &str, text: &str) -> Scratch {
        let folder = std::env::temp_dir().join(format!("ringside-deploy-{}", std::process::id()));
        fs::create_dir_all(&folder).unwrap();
        let path = folder.join(name);
        fs::write(&path, text).unwrap();
        Scratch(path)
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let _ = fs::remove_file(&self.0);
        // Only when the last one is gone.
        let _ = fs::remove_dir(self.0.parent().unwrap());
    }
}

#[test]
fn systemd_takes_every_line_of_the_unit() {
    let unit = fs::read_to_string(root().join("deploy/systemd/ringside.service")).unwrap();
    let installed = "/usr/local/bin/ringside";
    assert!(unit.contains(installed));
    // It has to be there.
    let unit = unit.replace(installed, env!("CARGO_BIN_EXE_ringside"));
    // The one line that the unit says an older systemd does not know.
    let (version, _) = run(Command::new("systemd-analyze").arg("--version"));
    let version = version.split_whitespace().nth(1).and_then(|number| number.parse().ok());
    let newest = "Type=notify-reload\n";
    assert!(unit.contains(newest));
    let unit = match version.expect("a version") {
        ..253 => unit.replace(newest, ""),
        253u32.. => unit,
    };
    let file = Scratch::new("ringside.service", &unit);
    let verify = ["verify", "--man=no", "--recursive-errors=no"];
    let (_, said) = run(Command::new("systemd-analyze").args(verify).arg(&file.0));
    assert_eq!(said, "");
    // Exposure from 0 to 10; systemd itself calls 2 and less OK.
    let security = ["security", "--offline=true", "--threshold=20", "--no-pager"];
    run(Command::new("systemd-analyze").args(security).arg(&file.0));
}

#[test]
fn hadolint_finds_nothing_in_the_dockerfile() {
    let (out, _) = run(tool("hadolint").args(["--no-color", "deploy/docker/Dockerfile"]));
    assert_eq!(out, "");
}

/// Everything that `kubectl apply -k` would send.
fn manifests() -> (String, Vec<Value>) {
    let (text, said) = run(tool("kubectl").args(["kustomize", "deploy/kubernetes"]));
    assert_eq!(said, "", "no warnings");
    let file = Scratch::new("manifests.yaml", &text);
    let to_json =
        "import json, sys, yaml; print(json.dumps(list(yaml.safe_load_all(open(sys.argv[1])))))";
    let (json, _) = run(tool("python").args(["-c", to_json]).arg(&file.0));
    (text, serde_json::from_str(&json).unwrap())
}

#[test]
fn kubernetes_takes_the_manifests() {
    let file = Scratch::new("all.yaml", &manifests().0);
    let (out, said) = run(tool("kubernetes-validate").arg("--strict").arg(&file.0));
    let lines: Vec<&str> = out.lines().chain(said.lines()).collect();
    assert!(lines.len() == 8, "{lines:#?}");
    assert!(lines.iter().all(|line| line.contains(" passed for resource ")), "{lines:#?}");
}

#[test]
fn the_manifests_hold_the_examples_and_fit_them() {
    let (_, all) = manifests();
    let maps: BTreeMap<&str, &str> = all
        .iter()
        .filter(|one| one["kind"] == "ConfigMap")
        .map(|map| {
            let text = map["data"]["ringside.yaml"].as_str().expect("a config");
            (map["metadata"]["name"].as_str().unwrap(), text)
        })
        .collect();
    let mut seen = 0;
    for workload in all.iter().filter(|one| !one["spec"]["template"].is_null()) {
        let pod = &workload["spec"]["template"]["spec"];
        let containers = ["initContainers", "containers"].map(|key| pod[key].as_array());
        let mut containers = containers.into_iter().flatten().flatten();
        let ours = containers.find(|one| one["name"] == "ringside").expect("a ringside");
        let volumes = pod["volumes"].as_array().unwrap();
        let name = volumes.iter().find_map(|volume| volume["configMap"]["name"].as_str()).unwrap();
        let file = Scratch::new(&format!("{name}.yaml"), maps[name]);

        let mut check = Command::new(env!("CARGO_BIN_EXE_ringside"));
        run(check.args(["check", "--strict"]).arg(&file.0));
        let config = config::load(std::slice::from_ref(&file.0)).unwrap().config;
        let Some(config::Address::Ip(probes)) = config.probes.map(|probes| probes.address) else {
            panic!("{name}: the kubelet probes over TCP");
        };
        let ports = ours["ports"].as_array().unwrap();
        let port = ports.iter().find(|port| port["name"] == "probes").unwrap();
        assert_eq!(port["containerPort"], probes.port());
        let open = config.listeners.iter().filter_map(|listener| match &listener.address {
            config::Address::Ip(address) if !address.ip().is_loopback() => Some(address.port()),
            _ => None,
        });
        for listener in open {
            assert!(ports.iter().any(|port| port["containerPort"] == listener), "{listener}");
        }
        assert_eq!(ours["startupProbe"]["httpGet"]["path"], "/readyz");
        assert_eq!(ours["readinessProbe"]["httpGet"]["path"], "/readyz");
        assert_eq!(ours["livenessProbe"]["httpGet"]["path"], "/livez");

        let security = &ours["securityContext"];
        assert_eq!(pod["securityContext"]["runAsNonRoot"], true);
        assert_eq!(security["allowPrivilegeEscalation"], false);
        assert_eq!(security["readOnlyRootFilesystem"], true);
        assert_eq!(security["capabilities"], serde_json::json!({ "drop": ["ALL"] }));
        let seccomp = serde_json::json!(
            { "type": "Localhost", "localhostProfile": "profiles/ringside.json" });
        assert_eq!(security["seccompProfile"], seccomp);
        if workload["kind"] == "Deployment" {
            assert_eq!(ours["restartPolicy"], "Always", "a native sidecar");
        }
        seen += 1;
    }
    assert_eq!((seen, maps.len()), (2, 2));
}

/// Applies the calls that a profile allows, with the library that container runtimes use; any other
/// call kills the process, so that a test cannot overlook one. Then becomes its arguments.
const UNDER_PROFILE: &str = r#"
import ctypes, json, os, sys
library = ctypes.CDLL('libseccomp.so.2')
library.seccomp_init.restype = ctypes.c_void_p
KILL_PROCESS, ALLOW = 0x80000000, 0x7fff0000
context = ctypes.c_void_p(library.seccomp_init(ctypes.c_uint32(KILL_PROCESS)))
profile = json.load(open(sys.argv[1]))
assert profile['defaultAction'] == 'SCMP_ACT_ERRNO' and profile['defaultErrnoRet'] == 1
for group in profile['syscalls']:
    assert group['action'] == 'SCMP_ACT_ALLOW' and 'args' not in group
    for name in group['names']:
        number = library.seccomp_syscall_resolve_name(name.encode())
        # 2.5.4 knows no newer calls than Linux 5.17's; -1 is a name that it does not know.
        assert number != -1, name
        assert library.seccomp_rule_add(context, ctypes.c_uint32(ALLOW), number, 0) == 0, name
assert library.seccomp_load(context) == 0     # sets no_new_privs too
os.execv(sys.argv[2], sys.argv[2:])
"#;

fn under_profile() -> Command {
    let mut python = Command::new("python3");
    let profile = root().join("deploy/kubernetes/seccomp/ringside.json");
    python.args(["-c", UNDER_PROFILE]).arg(profile);
    python
}

/// On io_uring, and on epoll where a kernel has it switched off: requests, a body that is spliced,
/// metrics, an access log that is opened again, a drain.
#[test]
fn under_the_seccomp_profile_everything_works() {
    for io in ["io_uring", "epoll"] {
        let log = Scratch::new(&format!("{io}.log"), "");
        let body = pattern(8 << 20);
        let large = body.clone();
        let origin = Origin::bind().serve(move |client| {
            while client.message().is_some() {
                client.send(format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n", large.len()));
                client.send(&large);
            }
        });
        let text = config(origin, "", "", "");
        let output = format!("access_log: {{ output: \"{}\" }}", log.0.display());
        let admin = log.0.with_extension("sock");
        let text = text.replace("access_log: none", &output)
            + &format!("admin: {{ address: \"unix:{}\" }}\n", admin.display());
        let mut command = under_profile();
        command.arg(env!("CARGO_BIN_EXE_ringside"));
        let mut proxy = Proxy::start_by(command, io, &text);
        assert!(proxy.said.iter().any(|fact| fact.starts_with(&format!("io {io} "))));
        for _ in 0..3 {
            let answer = proxy.connect().get("/");
            assert!(answer.status() == 200 && answer.body == body);
        }
        let info = format!("ringside_io_backend_info{{backend=\"{io}\"");
        assert!(proxy.metrics().contains(&info));
        proxy.signal("USR1");
        assert_eq!(proxy.connect().get("/").status(), 200);
        proxy.signal("TERM");
        assert_eq!(proxy.exit_code(), Some(0));
        assert_eq!(fs::read_to_string(&log.0).unwrap().lines().count(), 4);
        assert!(!admin.exists());
    }
}

#[test]
fn the_seccomp_profile_forbids_what_it_does_not_name() {
    let mut command = under_profile();
    command.args(["/usr/bin/env", "unshare", "--user", "true"]);
    let status = command.status().unwrap();
    assert!(!status.success(), "unshare(2) is not named");
}

/// As `deploy/build` makes it, but for the optimisations, which take minutes.
#[test]
fn the_binary_of_the_image_needs_no_library_and_works() {
    let (out, _) = run(Command::new("deploy/build").arg("dev"));
    let binary = root().join(out.trim_end());
    let (kind, _) = run(Command::new("file").arg("--brief").arg(&binary));
    assert!(kind.contains("static-pie linked") || kind.contains("statically linked"), "{kind}");
    let config = config(echo_origin(), "", "", "");
    // As in the image: under the profile, and its start-up is not the dynamic one's.
    let mut command = under_profile();
    command.arg(binary);
    let mut proxy = Proxy::start_by(command, "io_uring", &config);
    assert_eq!(proxy.connect().get("/").status(), 200);
    proxy.signal("TERM");
    assert_eq!(proxy.exit_code(), Some(0));
}
