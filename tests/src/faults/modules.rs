//! Faults of npm modules: an older version is installed and runs; a newer one is to be had that does not work.
//!
//! npm, what it installs and what then runs are real. The public registry has but one version of each of Binder's packages
//! left, so other versions are packed from it, and offered by a registry on the host's own loopback.

use std::time::Duration;

use super::{Act, Fault, FaultError, Healer, Site, Target, shows, unseen};
use crate::inventory::Role;

/// The module.
pub const MODULE: &str = "binder-web";
/// The folder that it is installed in.
pub const FOLDER: &str = crate::binder::software::INSIDE;
/// The version that the lab's software has.
pub const CURRENT: &str = "1.1.17";
/// The older one.
pub const OLD: &str = "1.1.16";
/// The newer one, which ends as soon as it is started.
pub const BROKEN: &str = "1.1.18";

pub(super) const FAULTS: &[Fault] = &[
    Fault {
        name: "module-old",
        does: "the web server runs in binder-web 1.1.16, which npm has installed in place of 1.1.17",
        healed_by: Healer::Operator,
        target: Target::The(Role::WebDeploy),
        inflict: OLDER,
        undo: None,
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

const OLDER: Act = |site| Box::pin(unseen(site, older(site)));
const OFFER: Act = |site| Box::pin(offer_broken(site));
const TAKE_BACK: Act = |site| Box::pin(unseen(site, take_back(site)));

/// npm with an empty cache, and pm2, on a computer that is compiling beside it.
const LIMIT: Duration = Duration::from_secs(120);

/// Packs the installed `binder-web` as version `$1`, as it was published and without the modules that npm has put into it; with
/// a second argument, as one that ends at once.
const PUBLISH: &str = r#"
registry=/var/lib/binder-registry
mkdir -p "$registry"
packing=$(mktemp -d)
mkdir "$packing/package"
tar -C /usr/local/lib/binder/node_modules/binder-web --exclude=./node_modules -cf - . | tar -C "$packing/package" -xf -
node -e '
  const fs = require("fs")
  const [file, version] = process.argv.slice(1)
  const manifest = JSON.parse(fs.readFileSync(file, "utf8"))
  fs.writeFileSync(file, JSON.stringify({ ...manifest, version }, null, 2) + "\n")
' "$packing/package/package.json" "$1"
[ -z "${2:-}" ] || cat >"$packing/package/server/index.js" <<'END'
module.exports = function () { throw new Error('this version is broken') }
END
tar -czf "$registry/binder-web-$1.tgz" -C "$packing" package
rm -rf "$packing"
"#;

/// Starts the registry unless it runs, and has npm ask it for whatever is to be installed among Binder's modules.
const REGISTRY: &str = "ss -ltnH 'sport = :4873' | grep -q . || \
    setsid -f node /usr/local/lib/binder-lab/registry.js /var/lib/binder-registry 4873 </dev/null >/var/log/registry.log 2>&1
    echo 'registry=http://127.0.0.1:4873/' >/usr/local/lib/binder/.npmrc";
/// Succeeds when the registry listens.
const LISTENS: &str = "ss -ltnH 'sport = :4873' | grep .";

/// Installs version `$1`, as a person does.
const INSTALL: &str = "cd / && npm install --prefix /usr/local/lib/binder --save-exact --ignore-scripts --no-audit --no-fund \
    --loglevel=error \"binder-web@$1\"";

/// The version that is installed.
const VERSION: &str = "exec node -p 'require(\"/usr/local/lib/binder/node_modules/binder-web/package.json\").version'";

/// Starts the web server again, with the key that it has.
const RESTART: &str = "pm2 restart binder-web-start";
/// Succeeds when it runs since after the module was put there, and listens.
const RUNS: &str = r#"
pid=$(ss -ltnpH 'sport = :3000' | sed -n 's/.*pid=\([0-9]*\).*/\1/p')
[ -n "$pid" ]
package=/usr/local/lib/binder/node_modules/binder-web/package.json
[ "$(($(date +%s) - $(ps -o etimes= -p "$pid") + 1))" -ge "$(stat -c %Z "$package")" ]
"#;

async fn older(site: Site<'_>) -> Result<(), FaultError> {
    publish(site, CURRENT, false).await?;
    publish(site, OLD, false).await?;
    install(site, OLD).await
}

async fn offer_broken(site: Site<'_>) -> Result<(), FaultError> {
    publish(site, CURRENT, false).await?;
    publish(site, BROKEN, true).await
}

async fn publish(site: Site<'_>, version: &str, broken: bool) -> Result<(), FaultError> {
    let args = [version, "broken"];
    site.host.script(PUBLISH, if broken { &args } else { &args[..1] }).await?;
    site.host.script(REGISTRY, &[]).await?;
    shows(site.host, "the registry listens", LISTENS, &[]).await
}

async fn install(site: Site<'_>, version: &str) -> Result<(), FaultError> {
    let npm = site.host.entering("root", &["sh", "-euc", INSTALL, "script", version])?.limit(LIMIT);
    npm.succeed().await?;
    let found = site.host.script(VERSION, &[]).await?;
    if found.trim() != version {
        let what = format!("npm has ended, and binder-web is {}", found.trim());
        return Err(FaultError::NothingToBreak { host: site.host.name().to_owned(), what });
    }
    site.host.script_as_user(RESTART, &[]).await?;
    shows(site.host, "the web server runs in it", RUNS, &[]).await
}

async fn take_back(site: Site<'_>) -> Result<(), FaultError> {
    site.host.script("rm -f /var/lib/binder-registry/binder-web-1.1.18.tgz", &[]).await?;
    let found = site.host.script(VERSION, &[]).await?;
    if found.trim() == CURRENT { Ok(()) } else { install(site, CURRENT).await }
}
