//! A probe, run by a shell of this computer instead of a machine's sshd: the same program, the same runner, the same frames.
//! For tests of what the sections say when the tools under them fail.

use super::framing::{Frames, Nonce};
use super::probe::{BadProbe, Probe, SectionOutput};
use std::collections::BTreeMap;
use std::io::{Read, Write};
use std::os::unix::process::CommandExt;
use std::process::{Command, Stdio};
use std::sync::{Arc, Mutex, mpsc};
use std::time::{Duration, Instant};

/// Why a probe could not be run here.
#[derive(Debug, thiserror::Error)]
pub enum LocalError {
    /// It is no probe.
    #[error(transparent)]
    BadProbe(#[from] BadProbe),
    /// The shell could not be started or written to.
    #[error("the shell cannot be run: {0}")]
    Shell(#[from] std::io::Error),
}

/// Runs the probe by `shell`, a command that takes its program on standard input. The shell's `PATH` is the program's, with
/// nothing added. After `within` the look is over, as when the connection breaks: what came until then counts.
///
/// # Errors
/// [`LocalError`] when nothing could be run.
pub fn look(
    probe: &Probe,
    shell: &mut Command,
    within: Duration,
) -> Result<BTreeMap<&'static str, SectionOutput>, LocalError> {
    let deadline = Instant::now() + within;
    let nonce = Nonce::random();
    // The folders that the program adds are this computer's own.
    let program = probe.program(&nonce)?.replacen("\nPATH=$PATH:", "\nPATH=$PATH; : ", 1);
    let mut child =
        shell.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::null()).process_group(0).spawn()?;
    let (input, mut output) = (child.stdin.take(), child.stdout.take());
    let said = Arc::new(Mutex::new(Vec::new()));
    let (ended, end) = mpsc::channel();
    let kept = said.clone();
    std::thread::spawn(move || {
        if let Some(mut input) = input {
            let _ = input.write_all(program.as_bytes());
        }
        let mut bytes = [0; 16 << 10];
        while let Some(output) = &mut output {
            match output.read(&mut bytes) {
                Ok(count) if count > 0 => super::locked(&kept).extend(&bytes[..count]),
                _ => break,
            }
        }
        let _ = ended.send(());
    });
    if end.recv_timeout(deadline.saturating_duration_since(Instant::now())).is_err() {
        let _ = Command::new("kill").args(["-KILL", "--", &format!("-{}", child.id())]).status();
    }
    let _ = child.wait();
    let mut frames = Frames::new(nonce, probe.sections().iter().map(|section| section.max_bytes));
    frames.push(&super::locked(&said));
    let outputs = frames.finish(probe.sections().iter().map(|section| section.limit));
    Ok(probe.sections().iter().map(|section| section.name).zip(outputs).collect())
}
