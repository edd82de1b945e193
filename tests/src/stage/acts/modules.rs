//! Acts on npm modules.

use std::time::Duration;

use binder_crds::conditions;
use serde_json::json;

use super::{Act, Look, world};
use crate::faults::modules::{CURRENT, FOLDER, MODULE};
use crate::stage::{Stage, owner};

/// The host with the web server, whose module it is.
pub const HOST: &str = "binder-web-deploy";

pub(super) const ACTS: &[Act] = &[Act {
    fault: "module-old",
    host: HOST,
    title: "a module is older than asked for",
    condition: conditions::MODULES_AT_VERSION,
    reason: "ModuleOld",
    steps: &["InstallModule", "DeleteEntries", "StartProcess"],
    consequences: &[],
    world: "the version on the disk, a server that was started after it, and the page",
    look: |stage| Box::pin(runs(stage, CURRENT)),
    in_demo: false,
}];

/// What comes after a fault, before it is looked for.
pub(super) const THEN: &[(&str, Look)] = &[("module-old", |stage| Box::pin(asked(stage, CURRENT)))];

/// Has the owner ask for a version.
///
/// # Errors
/// The file is not taken in.
pub async fn asked(stage: &Stage, version: &str) -> Result<String, String> {
    let status = stage.lab.status().map_err(|error| crate::said(&error))?;
    let mut file = owner::file(&status, "Enforce");
    let hosts = file["spec"]["hosts"].as_array_mut().ok_or("the owner's file has no hosts")?;
    let host = hosts.iter_mut().find(|host| host["name"] == HOST).ok_or("the owner's file lacks the web host")?;
    host["modules"] = json!([{"name": MODULE, "version": version, "folder": FOLDER}]);
    stage.kubectl.apply(&file.to_string()).await.map_err(|error| crate::said(&error))?;
    Ok(format!("the owner asks for {MODULE} {version}"))
}

/// The version on the disk, and whether whoever listens on 3000 was started after it came there.
const LOOK: &str = r#"
package=/usr/local/lib/binder/node_modules/binder-web/package.json
node -p 'require(process.argv[1]).version' "$package"
pid=$(ss -ltnpH 'sport = :3000' | sed -n 's/.*pid=\([0-9]*\).*/\1/p')
[ -n "$pid" ] || { echo nobody; exit 0; }
# Both times are cut to whole seconds.
started=$(($(date +%s) - $(ps -o etimes= -p "$pid") + 1))
[ "$started" -ge "$(stat -c %Z "$package")" ] && echo after || echo before
"#;

/// The version is on the disk, the web server was started after it came there, and the page answers.
///
/// # Errors
/// It is not so yet, or could not be looked at.
pub async fn runs(stage: &Stage, version: &str) -> Result<String, String> {
    let host = stage.lab.host(HOST).map_err(|error| crate::said(&error))?;
    let seen = host.script(LOOK, &[]).await.map_err(|error| crate::said(&error))?;
    if seen.split_whitespace().ne([version, "after"]) {
        return Err(format!(
            "{MODULE} is {}",
            seen.split_whitespace().collect::<Vec<_>>().join(", its server started ")
        ));
    }
    let page = world::page(stage).await?;
    Ok(format!("{MODULE} {version} is installed, its server was started after that, and {page}"))
}

/// How long a version may take to be installed, to fail, and to be taken back.
pub const WITHIN: Duration = Duration::from_secs(300);
