//! npm's prefix as people write it, npm at work as it is spelled.

use super::super::script::stand_in::Stage;
use super::*;
use crate::seen::machine::Process;
use proptest::prelude::*;

fn said(text: &str) -> Modules {
    read(Some(&Answer::Said { bytes: format!("{text}\nend\n").into_bytes(), exit: 0 })).unwrap()
}

fn installed(version: &str, place: &str, since: i64) -> Found {
    Found::Installed(Installed { version: version.into(), place: place.into(), since })
}

#[test]
fn a_version_comes_with_its_place_and_its_time() {
    let modules = said(
        "module binder-web\nat /opt/binder\ntime 1700000000 1800000000\njson { \"name\": \"x\", \"version\": \"1.1.17\" }\n\
         module @a/b\nat /usr\ntime 0 1800000000\njson {\"version\":\"2.0.0-rc.1+build.7\"}\nmodule gone\n",
    );
    assert_eq!(modules["binder-web"], installed("1.1.17", "/opt/binder", 1_700_000_000));
    assert_eq!(modules["@a/b"], installed("2.0.0-rc.1", "/usr", 1_800_000_000));
    assert_eq!(modules["gone"], Found::Missing);
}

#[test]
fn what_is_there_and_cannot_be_read_is_not_missing() {
    for rest in [
        "closed /opt/b",
        "at /opt/b",
        "at /opt/b\ntime - -\njson {\"version\":\"1.0.0\"}",
        "at /opt/b\ntime 1 1\njson not json",
        "at /opt/b\ntime 1 1\njson {\"version\":\"$(reboot)\"}",
        "at /opt/b\ntime 1 1\njson {\"version\":\"--registry=http://x\"}",
        "at /opt/b\ntime 1 1\njson {\"version\":[\"1.0.0\"]}",
        "at /opt/../b\ntime 1 1\njson {\"version\":\"1.0.0\"}",
    ] {
        assert_eq!(said(&format!("module m\n{rest}\n"))["m"], Found::Unreadable, "{rest}");
    }
    let deep = format!("module m\nat /b\ntime 1 1\njson {}\n", "[".repeat(60_000));
    assert_eq!(said(&deep)["m"], Found::Unreadable);
}

/// A home with modules: `mine` and `other` are prefixes, `node` is the node's own.
fn stage() -> Stage {
    let stage = Stage::new().without("node").without("nodejs").without("npm");
    let place = |inside: &str, version: &str| {
        let folder = stage.home().join(inside);
        std::fs::create_dir_all(&folder).unwrap();
        std::fs::write(folder.join("package.json"), format!("{{\n  \"version\":\r\n \"{version}\"\n}}\n")).unwrap();
    };
    place("app/node_modules/binder-web", "1.1.16");
    place("mine/lib/node_modules/binder-control", "2.0.0");
    place("node/lib/node_modules/binder-control", "1.0.0");
    place("node/lib/node_modules/pm2", "1.1.3");
    stage
}

/// The same with a node of its own on the `PATH`.
fn with_node() -> Stage {
    let stage = stage();
    std::fs::create_dir_all(stage.home().join("node/bin")).unwrap();
    std::fs::write(stage.home().join("node/bin/node"), "#!/bin/sh\n").unwrap();
    let node = stage.home().join("node/bin/node");
    std::fs::set_permissions(&node, std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
    std::os::unix::fs::symlink(&node, stage.home().join("../bin/node")).unwrap();
    stage
}

fn look(stage: &Stage, shell: &[&str], modules: &[(&str, Option<&str>)]) -> Modules {
    let modules: Vec<_> =
        modules.iter().map(|(name, folder)| ((*name).to_owned(), folder.map(str::to_owned))).collect();
    read(Some(&stage.run_with(shell, &ask(&modules)))).unwrap()
}

fn global(stage: &Stage, shell: &[&str]) -> Found {
    look(stage, shell, &[("binder-control", None)]).remove("binder-control").unwrap()
}

const SHELLS: &[&[&str]] = &[&["sh"], &["bash"], &["busybox", "sh"]];

fn version(found: &Found) -> &str {
    match found {
        Found::Installed(installed) if installed.since > 1_600_000_000 => installed.version.0.as_str(),
        other => panic!("{other:?}"),
    }
}

#[test]
fn modules_are_found_in_their_folder_and_among_npms_global_ones() {
    let stage = with_node();
    std::fs::write(stage.home().join(".npmrc"), "; mine\nprefix = ~/mine\n").unwrap();
    let app = stage.home().join("app").display().to_string();
    let asked = [
        ("binder-web", Some(app.as_str())),
        ("binder-control", None),
        ("pm2", None),
        ("binder-web2", Some(app.as_str())),
        ("binder-web3", None),
    ];
    for shell in SHELLS {
        let found = look(&stage, shell, &asked);
        assert_eq!(version(&found["binder-web"]), "1.1.16");
        assert_eq!(version(&found["binder-control"]), "2.0.0", "the login's own prefix comes first");
        assert_eq!(version(&found["pm2"]), "1.1.3");
        assert_eq!((&found["binder-web2"], &found["binder-web3"]), (&Found::Missing, &Found::Missing));
    }
}

#[test]
fn npms_prefix_is_read_as_npm_reads_it() {
    // What `npm config get prefix` says is .../mine for each of them.
    for npmrc in [
        "prefix = \"HOME/mine\"\n",
        "prefix=\"${HOME}/mine\"\n",
        "prefix='${HOME}/mine'",
        "prefix=HOME/mine \n",
        "prefix=HOME/mine\r\n",
        "  \"prefix\"=HOME/mine/ ; where mine are\nregistry=https://x/\n",
        "prefix=/nowhere\nprefix=${HOME}/mine\n",
        "prefix=~/mine\n[other]\nprefix=/nowhere\n",
        "//registry.npmjs.org/:_authToken=secret\nprefix=~/mine",
    ] {
        let stage = with_node();
        let home = stage.home().display().to_string();
        std::fs::write(stage.home().join(".npmrc"), npmrc.replace("HOME/", &format!("{home}/"))).unwrap();
        for shell in SHELLS {
            assert_eq!(version(&global(&stage, shell)), "2.0.0", "{npmrc:?} {shell:?}");
        }
    }
    let stage = with_node();
    std::fs::create_dir_all(stage.home().join("node/etc")).unwrap();
    std::fs::write(stage.home().join("node/etc/npmrc"), "prefix=${HOME}/mine\n").unwrap();
    assert_eq!(version(&global(&stage, &["sh"])), "2.0.0", "the global file");
    std::fs::remove_file(stage.home().join("node/etc/npmrc")).unwrap();
    assert_eq!(version(&global(&stage, &["sh"])), "1.0.0", "above node's folder");
}

#[test]
fn a_prefix_that_is_not_known_makes_nothing_missing() {
    for npmrc in ["prefix=${NOT_SET_HERE}/mine", "prefix=mine", "prefix=", "prefix=\"/a\\u002fb\""] {
        let stage = with_node();
        std::fs::write(stage.home().join(".npmrc"), npmrc).unwrap();
        for shell in SHELLS {
            let found = global(&stage, shell);
            assert!(matches!(&found, Found::Unknown(why) if why.contains(".npmrc: ")), "{npmrc}: {found:?}");
        }
    }
    // nvm's node is on the PATH of an interactive shell only.
    assert!(matches!(global(&stage(), &["sh"]), Found::Unknown(why) if why.starts_with("node is not on")));
    // A launcher of other nodes.
    let shim = stage();
    std::os::unix::fs::symlink("/bin/true", shim.home().join("../bin/node")).unwrap();
    assert!(matches!(global(&shim, &["sh"]), Found::Unknown(_)));
}

#[test]
fn a_module_that_is_a_link_is_told_as_one() {
    let stage = with_node();
    std::fs::create_dir_all(stage.home().join("src/binder-web")).unwrap();
    std::fs::write(stage.home().join("src/binder-web/package.json"), r#"{"version": "1.2.0-dev"}"#).unwrap();
    let modules = stage.home().join("node/lib/node_modules");
    std::os::unix::fs::symlink(stage.home().join("src/binder-web"), modules.join("binder-web")).unwrap();
    std::os::unix::fs::symlink(stage.home().join("src/gone"), modules.join("gone")).unwrap();
    let found = look(&stage, &["sh"], &[("binder-web", None), ("gone", None)]);
    assert!(matches!(&found["binder-web"], Found::Linked(there) if there.version.0 == "1.2.0-dev"), "{found:?}");
    assert_eq!(found["gone"], Found::Unreadable, "it leads nowhere, and is there");
}

#[test]
fn an_npm_that_installs_is_seen_in_every_spelling_and_one_that_runs_a_server_is_not() {
    let at_work = |command: &str, up: u64| {
        let process = Process { parent: 1, uid: 1000, started_ticks: 1, command: command.to_owned() };
        let processes = BTreeMap::from([(7, process)]);
        npm_at_work(&Machine { processes, uptime: up, ticks: 1, ..Machine::default() })
    };
    for command in [
        "npm install binder-web@1.1.17",
        "npm i",
        "npm -g install binder-web",
        "sudo npm install -g binder-web",
        "sudo -u andrew npm -g install binder-web",
        "npm --prefix /opt/binder install",
        "npm add x",
        "npm up",
        "npm link",
        "npm rebuild",
        "npm un x",
        "npm",
        "yarn global add x",
        "yarn",
        "pnpm add x",
        "node /usr/bin/npm install --prefix /opt/binder binder-web@1.1.17",
        "/usr/bin/node /usr/share/nodejs/npm/bin/npm-cli.js ci",
        "timeout -k 10 270 npm ci",
        "sudo -n env PATH=/usr/bin timeout -k 10 270 npm install x --prefix /opt/binder",
        "sh -c cd /opt/binder && npm install",
    ] {
        assert!(at_work(command, 60), "{command}");
    }
    for command in [
        "npm start",
        "npm --prefix /srv/app start",
        "npm run build",
        "npm -v",
        "npm ls -g",
        "yarn start",
        "node server.js install",
        "vi npm-install.md",
        "man npm",
        "grep npm install",
        "",
    ] {
        assert!(!at_work(command, 60), "{command}");
    }
    // npm 3 overwrites its command line: one that has been so for an hour runs a server.
    assert!(!at_work("npm", 3600));
}

proptest! {
    #[test]
    fn any_output_is_survived(text in "(module .{0,20}\n)?(at|time|json|closed|link|unknown) .{0,200}\n.{0,200}") {
        let _ = said(&text);
    }
}
