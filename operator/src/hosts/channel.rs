//! Running one command on a machine, to its end or to ours.
//!
//! What is common to looks and changes: the channel, the limit in time, the order in which a server may send things,
//! and how a channel is left behind. Does not know what runs; a [`Reader`] takes what comes.

use std::future::Future;
use std::ops::ControlFlow;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use russh::client::Msg;
use russh::{Channel, ChannelMsg, ChannelReadHalf, ChannelWriteHalf, Sig};
use tokio::sync::{OwnedSemaphorePermit, oneshot};
use tokio::time::{Instant, sleep_until, timeout, timeout_at};

use super::client::in_words;
use super::sanitize;
use super::session::Session;

/// A command's exit status may come before the last of its output, and the channel stays open for as long as any
/// process holds the output. So long is waited for the rest.
const AFTER_EXIT: Duration = Duration::from_secs(2);

/// How long to wait for the host to close a finished channel before we close it.
const TO_CLOSE: Duration = Duration::from_secs(1);

/// Takes what a command sends, as it comes, until it has enough.
pub(super) trait Reader: Send {
    fn output(&mut self, bytes: &[u8]) -> ControlFlow<Stop>;
    fn errors(&mut self, bytes: &[u8]) -> ControlFlow<Stop>;
}

/// Why a [`Reader`] has enough.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Stop {
    /// It has all that it came for.
    Satisfied,
    /// More came than it takes.
    Flooded,
    /// There is no room for more now.
    NoRoom,
}

/// What happens to a running command when its caller is dropped: the task was cancelled, or the operator ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum OnDrop {
    /// Nobody needs it any more.
    Kill,
    /// It is not cut off in the middle of what it does.
    HearOut,
}

/// How a command ended that was handed over.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Ended {
    /// By itself.
    Finished { exit: Option<i32>, signal: Option<String> },
    /// The reader had enough.
    Enough,
    /// The deadline came first. The command was killed, if the machine obeys.
    TimedOut,
    /// The connection ended.
    Lost(String),
}

/// Why nothing ran.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(super) enum NotStarted {
    #[error("the connection was lost: {0}")]
    Lost(String),
    #[error("it did not open a channel within {} s", .0.as_secs_f32())]
    Silent(Duration),
    #[error("it does not open another channel: {0}")]
    NoChannel(String),
    #[error("it refuses to run commands for this user")]
    Refused,
}

impl Session {
    /// Runs `command` (for the login shell) with `stdin`, feeding `reader`, until it ends or `deadline` comes.
    /// `on_drop` is what becomes of it when the asker goes away before that.
    pub(super) async fn run(
        &self,
        command: String,
        stdin: Vec<u8>,
        deadline: Instant,
        on_drop: OnDrop,
        reader: &mut dyn Reader,
    ) -> Result<Ended, NotStarted> {
        let on_drop = match on_drop {
            OnDrop::Kill => CloseMode::Kill,
            OnDrop::HearOut => CloseMode::HearOut(deadline),
        };
        let mut exec = self.open_exec(deadline, on_drop).await?;
        let Some(parts) = exec.parts.as_mut() else { return Err(NotStarted::Refused) };
        let (ended, mode) = self.converse(parts, command, stdin, deadline, reader).await;
        exec.close(mode);
        ended
    }

    async fn converse(
        &self,
        Parts { read, write, .. }: &mut Parts,
        command: String,
        stdin: Vec<u8>,
        deadline: Instant,
        reader: &mut dyn Reader,
    ) -> (Result<Ended, NotStarted>, CloseMode) {
        // Written while reading: a machine that talks without listening would otherwise stop both sides.
        let feed = async {
            write.exec(true, command).await?;
            if !stdin.is_empty() {
                write.data_bytes(stdin).await?;
            }
            write.eof().await
        };
        tokio::pin!(feed);
        let mut fed = false;
        let (mut exit, mut signal) = (None, None);
        let mut until = deadline;
        loop {
            let message = tokio::select! {
                message = read.wait() => message,
                // A failure to write shows as the channel's end.
                _ = &mut feed, if !fed => {
                    fed = true;
                    continue;
                }
                () = sleep_until(until) => {
                    return if exit.is_some() || signal.is_some() {
                        (Ok(Ended::Finished { exit, signal }), CloseMode::Finishing)
                    } else {
                        (Ok(Ended::TimedOut), CloseMode::Kill)
                    };
                }
            };
            let flow = match message {
                Some(ChannelMsg::Data { data }) => reader.output(&data),
                Some(ChannelMsg::ExtendedData { data, .. }) => reader.errors(&data),
                Some(ChannelMsg::ExitStatus { exit_status }) => {
                    exit = Some(i32::try_from(exit_status).unwrap_or(i32::MAX));
                    until = deadline.min(Instant::now() + AFTER_EXIT);
                    continue;
                }
                Some(ChannelMsg::ExitSignal { signal_name, .. }) => {
                    signal = Some(sanitize(name_of(&signal_name).as_bytes(), 20));
                    until = deadline.min(Instant::now() + AFTER_EXIT);
                    continue;
                }
                Some(ChannelMsg::Failure) => return (Err(NotStarted::Refused), CloseMode::Finishing),
                Some(ChannelMsg::Close) => return (Ok(Ended::Finished { exit, signal }), CloseMode::Closed),
                None if exit.is_some() || signal.is_some() => {
                    return (Ok(Ended::Finished { exit, signal }), CloseMode::Closed);
                }
                None => return (Ok(Ended::Lost(self.ending_in_words())), CloseMode::Closed),
                Some(_) => continue,
            };
            match flow {
                ControlFlow::Continue(()) => {}
                ControlFlow::Break(Stop::Satisfied) => return (Ok(Ended::Enough), CloseMode::Finishing),
                ControlFlow::Break(Stop::Flooded | Stop::NoRoom) => return (Ok(Ended::Enough), CloseMode::Kill),
            }
        }
    }

    async fn open_exec(&self, deadline: Instant, on_drop: CloseMode) -> Result<Exec, NotStarted> {
        let started = Instant::now();
        let deadline = deadline.min(started + self.limits.open_channel);
        let silent = || NotStarted::Silent(started.elapsed());
        let slot = match timeout_at(deadline, Arc::clone(&self.commands).acquire_owned()).await {
            Ok(Ok(slot)) => slot,
            Ok(Err(_)) => return Err(NotStarted::Lost(self.ending_in_words())),
            Err(_) => return Err(NotStarted::NoChannel("too many commands of ours still run".to_owned())),
        };
        let handle = Arc::clone(&self.handle);
        match open(async move { handle.channel_open_session().await }, deadline).await {
            Some(Ok(channel)) => {
                let (read, write) = channel.split();
                let parts = Parts { read, write, _slot: slot, leaked_channels: Arc::clone(&self.leaked_channels) };
                Ok(Exec { parts: Some(parts), on_drop })
            }
            Some(Err(russh::Error::ChannelOpenFailure(why))) => {
                // Whatever fills the connection up, a fresh one starts empty.
                self.close();
                Err(NotStarted::NoChannel(why.description().to_owned()))
            }
            Some(Err(error)) => Err(NotStarted::Lost(match self.notes.ending() {
                Some(_) => self.ending_in_words(),
                None => in_words(&error),
            })),
            None => {
                // A connection that cannot even open a channel is of no use to anyone; the next attempt will say more.
                self.close();
                Err(silent())
            }
        }
    }
}

/// Waits for a channel until `deadline`. One that comes later, or that its asker no longer waits for, is closed.
pub(super) async fn open(
    opening: impl Future<Output = Result<Channel<Msg>, russh::Error>> + Send + 'static,
    deadline: Instant,
) -> Option<Result<Channel<Msg>, russh::Error>> {
    let (sender, receiver) = oneshot::channel();
    tokio::spawn(async move {
        if let Err(Ok(late)) = sender.send(opening.await) {
            // Its connection may be gone, and with it the channel.
            let _ = late.close().await;
        }
    });
    match timeout_at(deadline, receiver).await {
        Ok(result) => Some(result.unwrap_or(Err(russh::Error::Disconnect))),
        Err(_) => None,
    }
}

/// A channel that a command runs on.
struct Exec {
    parts: Option<Parts>,
    /// How it is left when it is dropped in the middle.
    on_drop: CloseMode,
}

struct Parts {
    read: ChannelReadHalf,
    write: ChannelWriteHalf<Msg>,
    _slot: OwnedSemaphorePermit,
    leaked_channels: Arc<AtomicU32>,
}

/// How a channel is closed.
#[derive(Clone, Copy, PartialEq, Eq)]
enum CloseMode {
    /// The machine has closed it.
    Closed,
    /// The command has ended or is about to: the machine will close it.
    Finishing,
    /// The command may go on until then, and is listened to, since it could not write to nobody.
    HearOut(Instant),
    /// The command is to end now, and whatever it still sends is not wanted.
    Kill,
}

impl Exec {
    fn close(&mut self, mode: CloseMode) {
        let Some(parts) = self.parts.take() else { return };
        if mode == CloseMode::Closed {
            return;
        }
        // Without a runtime the connection is gone as well.
        if let Ok(runtime) = tokio::runtime::Handle::try_current() {
            runtime.spawn(parts.leave(mode));
        }
    }
}

impl Drop for Exec {
    fn drop(&mut self) {
        self.close(self.on_drop);
    }
}

impl Parts {
    /// Closes the channel. A machine that is about to close it itself gets a moment to do so, since a channel that we
    /// close first leaves something behind in the library. All of it fails only together with the connection.
    async fn leave(mut self, mode: CloseMode) {
        match mode {
            CloseMode::Closed => return,
            CloseMode::Finishing => {
                if timeout(TO_CLOSE, self.closed()).await.is_ok() {
                    return;
                }
            }
            CloseMode::HearOut(deadline) => {
                if timeout_at(deadline, self.closed()).await.is_ok() {
                    return;
                }
            }
            // OpenSSH obeys since 7.9, unless the user is root. Otherwise the command ends when it next writes, since
            // nobody reads any more.
            CloseMode::Kill => drop(self.write.signal(Sig::KILL).await),
        }
        self.leaked_channels.fetch_add(1, Ordering::Relaxed);
        let _ = self.write.close().await;
    }

    async fn closed(&mut self) {
        while !matches!(self.read.wait().await, Some(ChannelMsg::Close) | None) {}
    }
}

/// `TERM`, as in `kill -TERM`.
fn name_of(signal: &Sig) -> String {
    match signal {
        Sig::Custom(name) => name.clone(),
        known => format!("{known:?}"),
    }
}
