//! Faults of pm2 itself: gone, or not answering.

use super::{Act, Fault, FaultError, Healer, Site, Target, shows};

pub(super) const FAULTS: &[Fault] = &[
    Fault {
        name: "pm2-gone",
        does: "the program pm2 is no longer installed; what it had started runs on",
        healed_by: Healer::Mend,
        target: Target::Any,
        inflict: HIDE,
        undo: Some(PUT_BACK),
    },
    Fault {
        name: "probe-hung",
        does: "pm2's daemon stops where it stands: `pm2 jlist` never ends, everything else answers",
        healed_by: Healer::Mend,
        target: Target::Any,
        inflict: STOP_DAEMON,
        undo: Some(CONTINUE_DAEMON),
    },
];

const HIDE: Act = |site| Box::pin(hide(site));
const PUT_BACK: Act = |site| Box::pin(put_back(site));
const STOP_DAEMON: Act = |site| Box::pin(stop_daemon(site));
const CONTINUE_DAEMON: Act = |site| Box::pin(continue_daemon(site));

async fn hide(site: Site<'_>) -> Result<(), FaultError> {
    site.host.script("cd /usr/local/bin; [ ! -e pm2 ] || mv pm2 .pm2-gone", &[]).await?;
    site.host.script_as_user("! command -v pm2", &[]).await?;
    Ok(())
}

async fn put_back(site: Site<'_>) -> Result<(), FaultError> {
    site.host.script("cd /usr/local/bin; [ ! -e .pm2-gone ] || mv .pm2-gone pm2", &[]).await?;
    site.host.script_as_user("command -v pm2", &[]).await?;
    Ok(())
}

/// Sends the signal `$1` to pm2's daemon, which is started first if there is none.
const SIGNAL_DAEMON: &str = "[ \"$1\" != STOP ] || pm2 ping >/dev/null; \
    pid=$(pgrep -u \"$(id -u)\" -f '^PM2 v.*God Daemon') && kill -s \"$1\" $pid";

async fn stop_daemon(site: Site<'_>) -> Result<(), FaultError> {
    site.host.script_as_user(SIGNAL_DAEMON, &["STOP"]).await?;
    let hangs = "timeout 3 pm2 jlist >/dev/null 2>&1 && exit 1 || [ $? = 124 ]";
    site.host.script_as_user(hangs, &[]).await?;
    Ok(())
}

async fn continue_daemon(site: Site<'_>) -> Result<(), FaultError> {
    site.host.script_as_user(SIGNAL_DAEMON, &["CONT"]).await?;
    shows(site.host, "pm2 answers", "timeout 10 runuser -u andrew -- env HOME=/home/andrew pm2 jlist >/dev/null", &[])
        .await
}
