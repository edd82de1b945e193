//! Who serves the kubectl proxy's port, and which cluster answers through it.

use super::{Answer, Ask, Blind, text};

/// The section's name.
pub const NAME: &str = "proxy";

/// Looks at the configured kubectl and at the program behind the port. `sudo` only to read whose program it is when it
/// is not the login's own.
const SCRIPT: &str = r#"
set -u
port=$1 kubectl=$2
if [ ! -e "$kubectl" ]; then echo 'kubectl missing'
elif [ ! -x "$kubectl" ]; then echo 'kubectl forbidden'
elif [ "$(head -c 2 -- "$kubectl" | tr -d '\0')" = '#!' ]; then echo 'kubectl script'
else printf 'kubectl binary %s\n' "$(readlink -f -- "$kubectl")"; fi
pid=$({ sudo -n timeout 3 ss -Hltnp "sport = :$port" 2>/dev/null || ss -Hltnp "sport = :$port"; } | sed -n 's/.*",pid=\([0-9]*\),fd=.*/\1/p' | head -n 1)
[ -n "$pid" ] && printf 'program %s\n' "$(readlink "/proc/$pid/exe" 2>/dev/null || sudo -n timeout 2 readlink "/proc/$pid/exe" 2>/dev/null)"
exit 0
"#;

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
    /// What answers through it.
    pub cluster: Cluster,
}

/// Reads the section and joins it with the answer that came through the tunnel.
///
/// # Errors
/// [`Blind`] when the section was not completed.
pub fn read(answer: Option<&Answer>, cluster: Cluster) -> Result<Proxy, Blind> {
    let text = text(answer, "the kubectl proxy")?;
    let (mut kubectl, mut program) = (Kubectl::Missing, None);
    for line in text.lines() {
        match line.split_once(' ') {
            Some(("kubectl", "forbidden")) => kubectl = Kubectl::Forbidden,
            Some(("kubectl", "script")) => kubectl = Kubectl::Script,
            Some(("kubectl", rest)) => {
                if let Some(path) = rest.strip_prefix("binary ") {
                    kubectl = Kubectl::Binary(clean(path));
                }
            }
            Some(("program", rest)) if !rest.is_empty() => program = Some(clean(rest)),
            _ => {}
        }
    }
    Ok(Proxy { kubectl, program, cluster })
}

fn clean(path: &str) -> String {
    path.chars().map(|c| if c.is_control() { '?' } else { c }).take(255).collect()
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

    #[test]
    fn kubectl_and_program_are_read() {
        let text = "kubectl binary /usr/bin/kubectl\nprogram /usr/bin/kubectl\n";
        let seen = read(Some(&Answer::Said { bytes: text.as_bytes().to_vec(), exit: 0 }), Cluster::NotAsked).unwrap();
        assert_eq!(seen.kubectl, Kubectl::Binary("/usr/bin/kubectl".to_owned()));
        assert_eq!(seen.program.as_deref(), Some("/usr/bin/kubectl"));
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
