//! Acts on npm modules.

use std::time::Duration;

use binder_crds::conditions;
use serde_json::json;

use super::{Act, Look, world};
use crate::faults::modules::{BUILD, FOLDER, Module, WEB};
use crate::stage::{Stage, owner};

/// The host with the web server.
pub const HOST: &str = "binder-web-deploy";
/// The host with the build server.
pub const BUILD_HOST: &str = "binder-tester-2";

pub(super) const ACTS: &[Act] = &[Act {
    fault: "module-old",
    host: HOST,
    title: "a module is older than asked for",
    condition: conditions::MODULES_AT_VERSION,
    reason: "ModuleOld",
    steps: &["InstallModule", "DeleteEntries", "StartProcess"],
    consequences: &[],
    world: "the version on the disk, a server that was started after it, and the page",
    look: |stage| Box::pin(runs(stage, HOST, WEB, WEB.current)),
    in_demo: false,
}];

/// What comes after a fault, before it is looked for.
pub(super) const THEN: &[(&str, Look)] = &[("module-old", |stage| Box::pin(asked(stage, &[(HOST, WEB, WEB.current)])))];

/// Has the owner ask for versions: of each host, which module in which version.
///
/// # Errors
/// The file is not taken in.
pub async fn asked(stage: &Stage, versions: &[(&str, Module, &str)]) -> Result<String, String> {
    let status = stage.lab.status().map_err(|error| crate::said(&error))?;
    let mut file = owner::file(&status, "Enforce");
    let hosts = file["spec"]["hosts"].as_array_mut().ok_or("the owner's file has no hosts")?;
    let mut words = Vec::new();
    for (name, module, version) in versions {
        let host = hosts.iter_mut().find(|host| host["name"] == *name).ok_or("the owner's file lacks the host")?;
        host["modules"] = json!([{"name": module.name, "version": version, "folder": FOLDER}]);
        words.push(format!("{} {version}", module.name));
    }
    stage.kubectl.apply(&file.to_string()).await.map_err(|error| crate::said(&error))?;
    Ok(format!("the owner asks for {}", words.join(" and ")))
}

/// The version of the module `$1` on the disk, and whether whoever listens on `$2` was started after it came there.
const LOOK: &str = r#"
package=/usr/local/lib/binder/node_modules/$1/package.json
node -p 'require(process.argv[1]).version' "$package"
pid=$(ss -ltnpH "sport = :$2" | sed -n 's/.*pid=\([0-9]*\).*/\1/p')
[ -n "$pid" ] || { echo never; exit 0; }
# Both times are cut to whole seconds.
started=$(($(date +%s) - $(ps -o etimes= -p "$pid") + 1))
[ "$started" -ge "$(stat -c %Z "$package")" ] && echo after || echo before
"#;

/// The version is on the disk, its server was started after it came there, and answers: the web server with the page.
///
/// # Errors
/// It is not so yet, or could not be looked at.
pub async fn runs(stage: &Stage, host: &str, module: Module, version: &str) -> Result<String, String> {
    let at = stage.lab.host(host).map_err(|error| crate::said(&error))?;
    let seen = at.script(LOOK, &[module.name, module.port]).await.map_err(|error| crate::said(&error))?;
    let name = module.name;
    if seen.split_whitespace().ne([version, "after"]) {
        let words: Vec<&str> = seen.split_whitespace().collect();
        return Err(format!("{name} is {}", words.join(", its server started ")));
    }
    let answers = if name == BUILD.name {
        world::connects(stage, host, 8082).await.map(|()| "it takes connections".to_owned())?
    } else {
        world::page(stage).await?
    };
    Ok(format!("{name} {version} is installed, its server was started after that, and {answers}"))
}

/// How long a version may take to be installed, to fail, and to be taken back.
pub const WITHIN: Duration = Duration::from_secs(300);
