//! Faults of npm modules: an older version is installed and runs; a newer one is to be had that does not work.
//!
//! npm, what it installs and what then runs are real. The public registry has but one version of each of Binder's packages
//! left, so other versions are packed from it, and offered by a registry on the host's own loopback.

use std::time::Duration;

use super::binder::DELETE;
use super::{Act, Fault, FaultError, Healer, OPEN, Site, Target, runs, shows, unseen};
use crate::inventory::Role;

/// A module of the lab, and the server that it is.
#[derive(Debug, Clone, Copy)]
pub struct Module {
    /// Its name.
    pub name: &'static str,
    /// The server's name for `binder-control`.
    pub server: &'static str,
    /// The process in pm2 that runs it.
    pub process: &'static str,
    /// The port that it listens on.
    pub port: &'static str,
    /// The version that the lab's software has.
    pub current: &'static str,
    /// An older one.
    pub old: &'static str,
    /// A newer one, which ends as soon as it is started.
    pub broken: &'static str,
}

/// The web server.
pub const WEB: Module = Module {
    name: "binder-web",
    server: "web",
    process: "binder-web-start",
    port: "3000",
    current: "1.1.17",
    old: "1.1.16",
    broken: "1.1.18",
};

/// The build server.
pub const BUILD: Module = Module {
    name: "binder-build",
    server: "build",
    process: "binder-build-start",
    port: "8082",
    current: "1.0.13",
    old: "1.0.12",
    broken: "1.0.14",
};

/// A module of the owner's own, among npm's global ones: a process that says its version on [`ECHO_PORT`].
pub const ECHO: &str = "lab-echo";
/// See [`ECHO`].
pub const ECHO_PORT: u16 = 7777;
/// The version of [`ECHO`] that is installed, and the one to be had.
pub const ECHO_VERSIONS: [&str; 2] = ["1.0.0", "1.1.0"];

/// The folder that modules are installed in.
pub const FOLDER: &str = crate::binder::software::INSIDE;

pub(super) const FAULTS: &[Fault] = &[
    Fault {
        name: "module-old",
        does: "the web server runs in binder-web 1.1.16, which npm has installed in place of 1.1.17",
        healed_by: Healer::Operator,
        target: Target::The(Role::WebDeploy),
        inflict: OLDER_WEB,
        undo: None,
    },
    Fault {
        name: "module-old-build",
        does: "the build server runs in binder-build 1.0.12, which npm has installed in place of 1.0.13",
        healed_by: Healer::Operator,
        target: Target::The(Role::Build),
        inflict: OLDER_BUILD,
        undo: None,
    },
    Fault {
        name: "module-old-global",
        does: "a process of the owner's own runs in lab-echo 1.0.0, which npm has installed among its global modules; 1.1.0 is to be had",
        healed_by: Healer::Operator,
        target: Target::The(Role::Build),
        inflict: OLDER_ECHO,
        undo: Some(REMOVE_ECHO),
    },
    Fault {
        name: "module-broken",
        does: "npm's registry offers a binder-web 1.1.18 that ends as soon as it is started",
        healed_by: Healer::Mend,
        target: Target::The(Role::WebDeploy),
        inflict: OFFER,
        undo: Some(TAKE_BACK),
    },
];

const OLDER_WEB: Act = |site| Box::pin(unseen(site, older(site, WEB)));
const OLDER_BUILD: Act = |site| Box::pin(unseen(site, older(site, BUILD)));
const OLDER_ECHO: Act = |site| Box::pin(older_echo(site));
const REMOVE_ECHO: Act = |site| Box::pin(remove_echo(site));
const OFFER: Act = |site| Box::pin(offer_broken(site));
const TAKE_BACK: Act = |site| Box::pin(unseen(site, take_back(site)));

/// npm with an empty cache, and pm2, on a computer that is compiling beside it.
const LIMIT: Duration = Duration::from_secs(120);

/// Packs the installed module `$1` as version `$2`, as it was published and without the modules that npm has put into it; with
/// a third argument, the file in it that is to end whatever loads it.
const PUBLISH: &str = r#"
registry=/var/lib/binder-registry
mkdir -p "$registry"
packing=$(mktemp -d)
mkdir "$packing/package"
tar -C "/usr/local/lib/binder/node_modules/$1" --exclude=./node_modules -cf - . | tar -C "$packing/package" -xf -
node -e '
  const fs = require("fs")
  const [file, version] = process.argv.slice(1)
  const manifest = JSON.parse(fs.readFileSync(file, "utf8"))
  fs.writeFileSync(file, JSON.stringify({ ...manifest, version }, null, 2) + "\n")
' "$packing/package/package.json" "$2"
[ -z "${3:-}" ] || cat >"$packing/package/$3" <<'END'
module.exports = function () { throw new Error('this version is broken') }
END
tar -czf "$registry/$1-$2.tgz" -C "$packing" package
rm -rf "$packing"
"#;

/// Starts the registry unless it runs, and has npm ask it for whatever is to be installed among Binder's modules.
const REGISTRY: &str = "ss -ltnH 'sport = :4873' | grep -q . || \
    setsid -f node /usr/local/lib/binder-lab/registry.js /var/lib/binder-registry 4873 </dev/null >/var/log/registry.log 2>&1
    echo 'registry=http://127.0.0.1:4873/' >/usr/local/lib/binder/.npmrc";

/// Installs the module `$1` in version `$2`, as a person does.
const INSTALL: &str = "cd / && npm install --prefix /usr/local/lib/binder --save-exact --ignore-scripts --no-audit --no-fund \
    --loglevel=error \"$1@$2\"";

/// The version of the module `$1` that is installed.
const VERSION: &str =
    "exec node -p 'require(process.argv[1]).version' \"/usr/local/lib/binder/node_modules/$1/package.json\"";

/// Succeeds when whoever listens on `$2` runs since after the module `$1` was put there. Both times are cut to whole seconds.
const RUNS: &str = r#"
pid=$(ss -ltnpH "sport = :$2" | sed -n 's/.*pid=\([0-9]*\).*/\1/p')
[ -n "$pid" ]
package=/usr/local/lib/binder/node_modules/$1/package.json
[ "$(($(date +%s) - $(ps -o etimes= -p "$pid") + 1))" -ge "$(stat -c %Z "$package")" ]
"#;

/// Packs the owner's module `$1` in version `$2`.
const PACK: &str = r#"
registry=/var/lib/binder-registry
mkdir -p "$registry"
packing=$(mktemp -d)
mkdir "$packing/package"
printf '{"name": "%s", "version": "%s"}\n' "$1" "$2" >"$packing/package/package.json"
cat >"$packing/package/index.js" <<'END'
const { version } = require('./package.json')
require('net').createServer((socket) => socket.end(`${version}\n`)).listen(7777)
END
tar -czf "$registry/$1-$2.tgz" -C "$packing" package
rm -rf "$packing"
"#;

/// Installs the module `$1` in version `$2` among npm's global ones, as a person does, and has npm ask the lab's registry there.
const INSTALL_GLOBALLY: &str = "cd / && prefix=$(npm prefix --global) && mkdir -p \"$prefix/etc\" && \
    echo 'registry=http://127.0.0.1:4873/' >\"$prefix/etc/npmrc\" && \
    npm install --global --ignore-scripts --no-audit --no-fund --loglevel=error \"$1@$2\" >&2 && \
    exec node -p 'require(process.argv[1]).version' \"$(npm root --global)/$1/package.json\"";

/// Runs the global module `$1` under pm2, by its own name.
const RUN_GLOBAL: &str = "exec pm2 start \"$(npm root --global)/$1/index.js\" --name \"$1\"";

/// Takes the module `$1` away again, and the registry's entry with it.
const REMOVE: &str =
    "cd / && npm uninstall --global --loglevel=error \"$1\" && rm -f \"$(npm prefix --global)/etc/npmrc\"";

async fn older_echo(site: Site<'_>) -> Result<(), FaultError> {
    for version in ECHO_VERSIONS {
        site.host.script(PACK, &[ECHO, version]).await?;
    }
    registry(site).await?;
    let npm = site.host.entering("root", &["sh", "-euc", INSTALL_GLOBALLY, "script", ECHO, ECHO_VERSIONS[0]])?;
    let found = npm.limit(LIMIT).succeed().await?;
    if found.trim() != ECHO_VERSIONS[0] {
        let what = format!("npm has ended, and {ECHO} is {}", found.trim());
        return Err(FaultError::NothingToBreak { host: site.host.name().to_owned(), what });
    }
    site.host.script_as_user(RUN_GLOBAL, &[ECHO]).await?;
    shows(site.host, "it listens", OPEN, &[&ECHO_PORT.to_string()]).await
}

async fn remove_echo(site: Site<'_>) -> Result<(), FaultError> {
    site.host.script_as_user("pm2 delete \"$1\"", &[ECHO]).await?;
    site.host.entering("root", &["sh", "-euc", REMOVE, "script", ECHO])?.limit(LIMIT).succeed().await?;
    Ok(())
}

async fn older(site: Site<'_>, module: Module) -> Result<(), FaultError> {
    runs(site.host, module.process, Some(module.port)).await?;
    publish(site, &[module.name, module.current]).await?;
    publish(site, &[module.name, module.old]).await?;
    install(site, module, module.old).await
}

async fn offer_broken(site: Site<'_>) -> Result<(), FaultError> {
    publish(site, &[WEB.name, WEB.current]).await?;
    publish(site, &[WEB.name, WEB.broken, "server/index.js"]).await
}

async fn publish(site: Site<'_>, what: &[&str]) -> Result<(), FaultError> {
    site.host.script(PUBLISH, what).await?;
    registry(site).await
}

async fn registry(site: Site<'_>) -> Result<(), FaultError> {
    site.host.script(REGISTRY, &[]).await?;
    shows(site.host, "the registry listens", OPEN, &["4873"]).await
}

async fn install(site: Site<'_>, module: Module, version: &str) -> Result<(), FaultError> {
    let npm = site.host.entering("root", &["sh", "-euc", INSTALL, "script", module.name, version])?.limit(LIMIT);
    npm.succeed().await?;
    let found = site.host.script(VERSION, &[module.name]).await?;
    if found.trim() != version {
        let what = format!("npm has ended, and {} is {}", module.name, found.trim());
        return Err(FaultError::NothingToBreak { host: site.host.name().to_owned(), what });
    }
    // Not by `pm2 restart`, which counts as one: a server that had crashed with its database a while ago would seem to go on.
    site.host.script_as_user(DELETE, &[module.process]).await?;
    site.lab.binder()?.ask_to_start_unseen(site.host, module.server, None).await?;
    shows(site.host, "the server runs in it", RUNS, &[module.name, module.port]).await
}

async fn take_back(site: Site<'_>) -> Result<(), FaultError> {
    site.host.script("rm -f \"/var/lib/binder-registry/$1-$2.tgz\"", &[WEB.name, WEB.broken]).await?;
    let found = site.host.script(VERSION, &[WEB.name]).await?;
    if found.trim() == WEB.current { Ok(()) } else { install(site, WEB, WEB.current).await }
}
