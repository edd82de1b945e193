//! `kubectl`, as the owner uses it. Knows how to call it and nothing of what is asked.

use std::path::PathBuf;
use std::time::Duration;

use crate::command::{CommandError, Output, Run};

/// No call here asks for more.
const LIMIT: Duration = Duration::from_secs(120);

/// The program with a kubeconfig.
#[derive(Debug, Clone)]
pub struct Kubectl {
    program: PathBuf,
    kubeconfig: PathBuf,
}

impl Kubectl {
    /// This program, with this kubeconfig.
    pub fn new(program: PathBuf, kubeconfig: PathBuf) -> Self {
        Self { program, kubeconfig }
    }

    /// The program's own path, for messages that tell a person how to go on.
    pub fn program(&self) -> &std::path::Path {
        &self.program
    }

    fn command(&self, arguments: &[&str]) -> Run {
        Run::new(&self.program).args(arguments).env("KUBECONFIG", &self.kubeconfig).limit(LIMIT)
    }

    /// Runs it; gives what it printed.
    ///
    /// # Errors
    /// It failed; the error shows what it said.
    pub async fn run(&self, arguments: &[&str]) -> Result<String, CommandError> {
        self.command(arguments).succeed().await
    }

    /// Runs it; gives what it said, well or not.
    ///
    /// # Errors
    /// It could not be run at all.
    pub async fn ask(&self, arguments: &[&str], stdin: Option<&str>) -> Result<Output, CommandError> {
        let mut command = self.command(arguments);
        if let Some(stdin) = stdin {
            command = command.stdin(stdin);
        }
        command.output().await
    }

    /// `kubectl apply` of some objects, through standard input.
    ///
    /// # Errors
    /// They were refused; the error shows why.
    pub async fn apply(&self, objects: &str) -> Result<String, CommandError> {
        // Client-side apply would write the objects, Secrets too, into an annotation.
        self.command(&["apply", "--server-side", "--force-conflicts", "-f", "-"]).stdin(objects).succeed().await
    }
}
