//! Config files that change are read again, without anybody saying so.

mod support;

use std::fs::{self, Permissions};
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::process::Command;

use support::{Proxy, config, echo_origin};

/// A folder of its own for a test; gone when dropped.
struct Folder(PathBuf);

impl Folder {
    fn new(test: &str) -> Folder {
        let path =
            std::env::temp_dir().join(format!("ringside-watch-{test}-{}", std::process::id()));
        let _ = fs::remove_dir_all(&path);
        fs::create_dir(&path).unwrap();
        Folder(path)
    }

    fn join(&self, name: &str) -> PathBuf {
        self.0.join(name)
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

/// A config whose one route is called `name`.
fn text(base: &str, name: &str) -> String {
    base.replace("name: all", &format!("name: {name}"))
}

/// Runs ringside with a config at this path instead of one of the test's own.
fn start(path: &Path) -> Proxy {
    Proxy::start_at(Command::new(env!("CARGO_BIN_EXE_ringside")), path)
}

fn is_live(proxy: &Proxy, generation: u64) {
    proxy.says(&format!("config generation {generation}, "));
}

#[test]
fn a_file_that_is_written_replaced_or_put_back_is_read() {
    let folder = Folder::new("file");
    let path = folder.join("ringside.yaml");
    let base = config(echo_origin(), "", "", "");
    fs::write(&path, text(&base, "one")).unwrap();
    let proxy = start(&path);
    fs::write(&path, text(&base, "two")).unwrap();
    is_live(&proxy, 2);
    let new = folder.join("new.tmp");
    fs::write(&new, text(&base, "three")).unwrap();
    fs::rename(&new, &path).unwrap();
    is_live(&proxy, 3);
    // Gone: said once, and what runs stays.
    fs::remove_file(&path).unwrap();
    proxy.says("cannot read");
    assert_eq!(proxy.connect().get("/").status(), 200);
    fs::write(&path, text(&base, "four")).unwrap();
    is_live(&proxy, 4);
    // What is wrong is said once, however often the file is touched.
    fs::write(&path, text(&base, "four").replace("service: origin", "service: orign")).unwrap();
    proxy.says("reload: the config is invalid");
    proxy.metric_becomes(&["ringside_config_rejected_total"], "2");
    assert_eq!(proxy.connect().get("/").status(), 200);
    fs::write(&path, text(&base, "five")).unwrap();
    is_live(&proxy, 5);
    proxy.metric_becomes(&["ringside_config_generation"], "5");
}

#[test]
fn a_swap_as_kubernetes_does_it_is_seen_and_a_touch_is_no_change() {
    let folder = Folder::new("swap");
    let base = config(echo_origin(), "", "", "");
    let put = |version: &str, name: &str| {
        fs::create_dir(folder.join(version)).unwrap();
        fs::write(folder.join(version).join("ringside.yaml"), text(&base, name)).unwrap();
        symlink(version, folder.join("..data_tmp")).unwrap();
        fs::rename(folder.join("..data_tmp"), folder.join("..data")).unwrap();
    };
    put("..2026_1", "one");
    let path = folder.join("ringside.yaml");
    symlink("..data/ringside.yaml", &path).unwrap();
    let proxy = start(&path);
    put("..2026_2", "two");
    is_live(&proxy, 2);
    // The same content in another place, and a file that is none of ours.
    put("..2026_3", "two");
    fs::write(folder.join("notes.txt"), "nothing").unwrap();
    put("..2026_4", "three");
    is_live(&proxy, 3);
    proxy.metric_becomes(&["ringside_config_generation"], "3");
    assert!(!proxy.said_since().iter().any(|fact| fact.contains("nothing has changed")));
}

#[test]
fn a_folder_that_is_gone_is_watched_again_when_it_is_back() {
    let folder = Folder::new("folder");
    let inner = folder.join("inner");
    let path = inner.join("ringside.yaml");
    let base = config(echo_origin(), "", "", "");
    fs::create_dir(&inner).unwrap();
    fs::write(&path, text(&base, "one")).unwrap();
    let proxy = start(&path);
    fs::remove_dir_all(&inner).unwrap();
    proxy.says("cannot read");
    fs::create_dir(&inner).unwrap();
    fs::write(&path, text(&base, "two")).unwrap();
    is_live(&proxy, 2);
    fs::write(&path, text(&base, "three")).unwrap();
    is_live(&proxy, 3);
}

#[test]
fn what_a_symlink_leads_to_is_watched_wherever_it_is() {
    let folder = Folder::new("links");
    let base = config(echo_origin(), "", "", "");
    let release = |number: &str, name: &str| {
        fs::create_dir_all(folder.join("releases").join(number)).unwrap();
        let path = folder.join("releases").join(number).join("ringside.yaml");
        fs::write(&path, text(&base, name)).unwrap();
        path
    };
    release("1", "one");
    symlink("releases/1", folder.join("current")).unwrap();
    let proxy = start(&folder.join("current/ringside.yaml"));
    // As deployments do it, far above the file.
    let second = release("2", "two");
    symlink("releases/2", folder.join("next")).unwrap();
    fs::rename(folder.join("next"), folder.join("current")).unwrap();
    is_live(&proxy, 2);
    // The file that it leads to now.
    fs::write(&second, text(&base, "three")).unwrap();
    is_live(&proxy, 3);
    let elsewhere = folder.join("elsewhere.yaml");
    fs::write(&elsewhere, text(&base, "four")).unwrap();
    fs::remove_file(&second).unwrap();
    symlink("../../elsewhere.yaml", &second).unwrap();
    is_live(&proxy, 4);
    fs::write(&elsewhere, text(&base, "five")).unwrap();
    is_live(&proxy, 5);
    // What it led to before is none of ours.
    release("1", "six");
    fs::write(&elsewhere, text(&base, "seven")).unwrap();
    is_live(&proxy, 6);
    assert_eq!(proxy.connect().get("/").status(), 200);
    proxy.metric_becomes(&["ringside_config_generation"], "6");
}

#[test]
fn a_folder_that_is_moved_away_is_watched_in_its_new_place() {
    let folder = Folder::new("moved");
    let inner = folder.join("etc/ringside");
    let path = inner.join("ringside.yaml");
    let base = config(echo_origin(), "", "", "");
    fs::create_dir_all(&inner).unwrap();
    fs::write(&path, text(&base, "one")).unwrap();
    let proxy = start(&inner);
    for (generation, name) in [(2, "two"), (4, "three")] {
        fs::rename(&inner, folder.join(&format!("old-{generation}"))).unwrap();
        fs::create_dir_all(&inner).unwrap();
        fs::write(&path, text(&base, name)).unwrap();
        is_live(&proxy, generation);
        fs::write(&path, text(&base, &format!("{name}-again"))).unwrap();
        is_live(&proxy, generation + 1);
    }
    fs::rename(folder.join("etc"), folder.join("gone")).unwrap();
    proxy.says("cannot read");
    fs::create_dir_all(&inner).unwrap();
    fs::write(&path, text(&base, "back")).unwrap();
    is_live(&proxy, 6);
    fs::write(inner.join("more.yaml"), "services: [{ name: x, pushed: {} }]").unwrap();
    is_live(&proxy, 7);
}

#[test]
fn a_file_that_may_be_read_at_last_is_read() {
    let folder = Folder::new("chmod");
    let path = folder.join("ringside.yaml");
    let base = config(echo_origin(), "", "", "");
    fs::write(&path, text(&base, "one")).unwrap();
    // Also root may not read everything without its capabilities.
    let mut command = Command::new("setpriv");
    command.args(["--bounding-set=-all", env!("CARGO_BIN_EXE_ringside")]);
    let is_root = fs::metadata(&folder.0).unwrap().uid() == 0;
    let command = if is_root { command } else { Command::new(env!("CARGO_BIN_EXE_ringside")) };
    let proxy = Proxy::start_at(command, &path);
    let new = folder.join("new.tmp");
    fs::write(&new, text(&base, "two")).unwrap();
    fs::set_permissions(&new, Permissions::from_mode(0o000)).unwrap();
    fs::rename(&new, &path).unwrap();
    proxy.says("Permission denied");
    fs::set_permissions(&path, Permissions::from_mode(0o600)).unwrap();
    is_live(&proxy, 2);
}
