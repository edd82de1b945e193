//! Who serves the kubectl proxy's port, and which cluster answers through it.

use super::script::{self, script};
use super::{Answer, Ask, Unknown};
use crate::sanitize;

/// The section's name.
pub const NAME: &str = "proxy";

/// Looks at the configured kubectl, at the program behind the port, and at the scripts that its parents run. A file is known by
/// its device and inode: one file has many paths. `sudo` only to read whose program it is when it is not the login's own.
const SCRIPT: &str = script!(
    r##"
port=$1 kubectl=$2
if [ ! -e "$kubectl" ]; then echo 'kubectl missing'
elif [ ! -x "$kubectl" ]; then echo 'kubectl forbidden'
else
  if try head -c 2 -- "$kubectl" && [ "$out" = '#!' ]; then echo 'kubectl script'
  else take readlink -f -- "$kubectl"; printf 'kubectl binary %s\n' "$out"; fi
  take stat -L -c '%d:%i' -- "$kubectl"
  printf 'described %s\n' "$out"
fi
try root timeout 3 ss -ltnp "sport = :$port" || try timeout 3 ss -ltnp "sport = :$port" || fail ss
pid=$(printf '%s\n' "$out" | sed -n 's/.*",\(pid=\)\{0,1\}\([0-9]\{1,\}\),.*/\2/p' | head -n 1)
[ -n "$pid" ] || end
{ try readlink "/proc/$pid/exe" || try root timeout 2 readlink "/proc/$pid/exe"; } && printf 'program %s\n' "$out"
{ try stat -L -c '%d:%i' "/proc/$pid/exe" || try root timeout 2 stat -L -c '%d:%i' "/proc/$pid/exe"; } && printf 'file %s\n' "$out"
at=$pid
for i in 1 2 3 4; do
  [ "$at" -gt 1 ] || break
  # The interpreter, its options, the script.
  tr '\0' '\n' 2>/dev/null <"/proc/$at/cmdline" | head -n 4 | while IFS= read -r word; do
    case $word in /*kubectl.sh) try stat -L -c '%d:%i' -- "$word" && printf 'script %s %s\n' "$out" "$word" ;; esac
  done
  IFS= read -r stat 2>/dev/null <"/proc/$at/stat" || break
  set -- ${stat##*) }
  at=${2:-0}
done
end
"##
);

/// The section of the probe.
pub fn ask(port: u16, kubectl: String) -> Ask {
    Ask { name: NAME, script: SCRIPT, args: vec![port.to_string(), kubectl], seconds: 6, max_bytes: 1 << 14 }
}

/// The kubectl that the spec names, as it is on the host.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Kubectl {
    /// There is no such file.
    Missing,
    /// It may not be executed.
    Forbidden,
    /// A script, which starts some other program.
    Script,
    /// A program, by its path without links.
    Binary(String),
}

/// What answers through the proxy when asked for the cluster's identity.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Cluster {
    /// Nobody asked.
    NotAsked,
    /// The UID of its `kube-system` namespace.
    Identity(String),
    /// An HTTP status other than 200.
    Status(u16),
    /// Not HTTP, not Kubernetes, or no answer in time: why, clean.
    NoAnswer(String),
}

/// What was seen of the proxy.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Proxy {
    /// The configured kubectl.
    pub kubectl: Kubectl,
    /// The program behind the port, by its path, if it could be seen.
    pub program: Option<String>,
    /// Which files these are.
    pub files: Files,
    /// What answers through it.
    pub cluster: Cluster,
}

/// Files by device and inode, as `stat` tells them, where they could be seen.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Files {
    /// The configured kubectl, behind all links.
    pub described: Option<String>,
    /// The program behind the port.
    pub program: Option<String>,
    /// Scripts named `kubectl.sh` that the program or its parents run, each with its path.
    pub scripts: Vec<(String, String)>,
}

/// Reads the section and joins it with the answer that came through the tunnel.
///
/// # Errors
/// [`Unknown`] when the section was not completed.
pub fn read(answer: Option<&Answer>, cluster: Cluster) -> Result<Proxy, Unknown> {
    let text = script::whole(answer, "the kubectl proxy")?;
    let (mut kubectl, mut program, mut files) = (Kubectl::Missing, None, Files::default());
    for line in text.lines() {
        match line.split_once(' ') {
            Some(("kubectl", "forbidden")) => kubectl = Kubectl::Forbidden,
            Some(("kubectl", "script")) => kubectl = Kubectl::Script,
            Some(("kubectl", rest)) => {
                if let Some(path) = rest.strip_prefix("binary ") {
                    kubectl = Kubectl::Binary(clean(path));
                }
            }
            // So the kernel marks a file that was deleted, or replaced, while it runs.
            Some(("program", rest)) if !rest.is_empty() => {
                program = Some(clean(rest.strip_suffix(" (deleted)").unwrap_or(rest)));
            }
            Some(("described", rest)) => files.described = inode(rest),
            Some(("file", rest)) => files.program = inode(rest),
            Some(("script", rest)) => {
                if let Some((file, path)) = rest.split_once(' ')
                    && let Some(file) = inode(file)
                {
                    files.scripts.push((file, clean(path)));
                }
            }
            _ => {}
        }
    }
    Ok(Proxy { kubectl, program, files, cluster })
}

fn clean(path: &str) -> String {
    sanitize(path.as_bytes(), 255)
}

/// `DEVICE:INODE`.
fn inode(text: &str) -> Option<String> {
    let (device, inode) = text.split_once(':')?;
    let number = |text: &str| (1..=20).contains(&text.len()) && text.bytes().all(|byte| byte.is_ascii_digit());
    (number(device) && number(inode)).then(|| text.to_owned())
}

/// The cluster's identity in an answer to `GET /api/v1/namespaces/kube-system`, if it is one.
pub fn identity(body: &[u8]) -> Option<String> {
    #[derive(serde::Deserialize)]
    struct Metadata {
        uid: String,
    }
    #[derive(serde::Deserialize)]
    struct Namespace {
        kind: String,
        metadata: Metadata,
    }
    let namespace: Namespace = serde_json::from_slice(body).ok()?;
    let uid = binder_crds::text::ClusterId(namespace.metadata.uid);
    (namespace.kind == "Namespace" && binder_crds::text::Checked::checked(&uid).is_ok()).then_some(uid.0)
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test that panics is a test that fails")]
mod tests {
    use super::*;
    use crate::seen::script::stand_in::Stage;

    #[test]
    fn kubectl_and_program_are_read() {
        let text = "kubectl binary /usr/bin/kubectl\ndescribed 1:2\nprogram /usr/bin/kubectl (deleted)\nfile 1:3\n\
            script 1:4 /data/home/andrew/kubectl.sh\nend\n";
        let seen = read(Some(&Answer::Said { bytes: text.as_bytes().to_vec(), exit: 0 }), Cluster::NotAsked).unwrap();
        assert_eq!(seen.kubectl, Kubectl::Binary("/usr/bin/kubectl".to_owned()));
        assert_eq!(seen.program.as_deref(), Some("/usr/bin/kubectl"));
        assert_eq!((seen.files.described.as_deref(), seen.files.program.as_deref()), (Some("1:2"), Some("1:3")));
        assert_eq!(seen.files.scripts, [("1:4".to_owned(), "/data/home/andrew/kubectl.sh".to_owned())]);
    }

    #[test]
    fn the_script_tells_the_files_behind_a_port_in_every_shell() {
        let pid = std::process::id();
        for ss in [format!("users:((\"kubectl\",pid={pid},fd=3))"), format!("users:((\"kubectl\",{pid},3))")] {
            let stage = Stage::new().tool("ss", &format!("echo 'LISTEN 0 1 127.0.0.1:8085 *:* {ss}'"));
            let kubectl = stage.home().join("kubectl.sh");
            std::fs::write(&kubectl, "#!/bin/sh\n").unwrap();
            let mode = std::os::unix::fs::PermissionsExt::from_mode(0o755);
            std::fs::set_permissions(&kubectl, mode).unwrap();
            for shell in [&["sh"][..], &["bash"], &["busybox", "sh"]] {
                let ask = ask(8085, kubectl.display().to_string());
                let seen = read(Some(&stage.run_with(shell, &ask)), Cluster::NotAsked).unwrap();
                assert_eq!(seen.kubectl, Kubectl::Script, "{shell:?}");
                assert!(seen.files.described.is_some() && seen.files.program.is_some(), "{shell:?}: {seen:?}");
            }
        }
    }

    #[test]
    fn an_ss_that_fails_is_not_nobody() {
        let stage = Stage::new().tool("ss", "echo \"ss: invalid option -- 'p'\" >&2; exit 255");
        let blind = read(Some(&stage.run(&ask(8085, "/k".to_owned()))), Cluster::NotAsked).unwrap_err();
        assert!(blind.message.contains("invalid option"), "{}", blind.message);
    }

    #[test]
    fn only_a_namespace_has_an_identity() {
        let uid = "1b671a64-40d5-491e-99b0-da01ff1f3341";
        let body = format!(r#"{{"kind":"Namespace","metadata":{{"name":"kube-system","uid":"{uid}"}}}}"#);
        assert_eq!(identity(body.as_bytes()).as_deref(), Some(uid));
        assert_eq!(identity(br#"{"kind":"Status","metadata":{}}"#), None);
        assert_eq!(identity(b"<html>"), None);
    }
}
